"""Attacks on an erased model: can the concept still be drawn?"""
