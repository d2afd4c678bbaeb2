"""The preserve moment and its cache."""

import logging
import os

import pytest
import torch

from trce_ops.closed_form.erase import EVERYDAY, EraseSettings, erase, keep_moments
from trce_ops.closed_form.preserve import keep_moment
from trce_ops.files import disk_cache
from trce_ops.text.concepts import parse_concepts
from trce_ops.text.embeddings import Pooled

CAPTIONS = ("a dog", "a cat on a mat", "an old photograph")


def literal(encoder, captions):
    tokens = torch.cat([encoder.encode([encoder.tokenize(text)], 77)[0] for text in captions]).double()
    return sum(torch.outer(k, k) for k in tokens) / len(tokens)


def test_is_the_mean_over_all_tokens_of_all_captions(encoder):
    kept = keep_moment(CAPTIONS, encoder)
    assert kept.moment.dtype == torch.float64
    assert torch.allclose(kept.moment, literal(encoder, CAPTIONS))
    assert torch.allclose(keep_moment(CAPTIONS + ("A  dog",), encoder).moment, kept.moment)


def test_captions_can_be_taken_out_again(encoder):
    part = keep_moment(CAPTIONS[1:2], encoder)
    left = keep_moment(CAPTIONS, encoder).without([1], part)
    alone = keep_moment(CAPTIONS[:1] + CAPTIONS[2:], encoder)
    assert torch.allclose(left.moment, alone.moment)
    assert torch.allclose(left.samples, alone.samples)


def test_captions_that_the_encoder_cannot_tell_apart_are_taken_out_as_one(encoder):
    """Samples belong to different prompts, of which there are fewer than captions."""
    captions = ("a dog runs", "A dog  runs", "a cat sleeps", "A cat sleeps", "two boats", "a red gate")
    kept = keep_moments((), ["cat"], ("{}",), encoder, None, lambda *_: None, captions)[EVERYDAY]
    alone = keep_moment(("a dog runs", "two boats", "a red gate"), encoder)
    assert torch.allclose(kept.moment, alone.moment)
    assert kept.samples.shape == alone.samples.shape and torch.allclose(kept.samples, alone.samples)


def test_samples_are_the_first_eot_and_the_last_position(encoder):
    kept = keep_moment(("a dog",), encoder)
    z = encoder.encode([encoder.tokenize("a dog")], 77)[0]
    assert torch.equal(kept.samples, z[None, [3, 76]])


def test_text_that_an_encoder_lacks_is_zero_and_changes_nothing(encoder):
    """HiDream without its CLIPs is given zeros for their pooled vector."""
    encoder.pooled_width, encoder.pool = 6, lambda rows: torch.zeros(len(rows), 6)
    encoders, pairs = {"context": encoder, "pooled": Pooled(encoder)}, parse_concepts("gun -> cake")
    delta, report = erase(pairs, ("a dog",), encoders, EraseSettings(), family="hidream", captions=CAPTIONS)
    assert not delta.maps["pooled"].dense().any()
    assert all(figure == figure for figure in (*report.kept.values(), *delta.info.measured.values()))


def test_of_several_layers_the_moment_is_over_all_and_the_samples_are_of_the_last(make_layered):
    encoder, *layers = make_layered()
    kept, alone = keep_moment(CAPTIONS, encoder), [keep_moment(CAPTIONS, layer) for layer in layers]
    assert torch.allclose(kept.moment, (alone[0].moment + alone[1].moment) / 2)
    assert torch.equal(kept.samples, alone[1].samples)


def test_the_second_run_reads_the_cache(encoder, tmp_path):
    first = keep_moment(CAPTIONS, encoder, tmp_path / "cache")
    encoder.encoded.clear()
    again = keep_moment(CAPTIONS, encoder, tmp_path / "cache")
    assert not encoder.encoded
    assert torch.equal(first.moment, again.moment)
    assert torch.equal(first.samples, again.samples)


def test_another_encoder_or_other_captions_miss_the_cache(encoder, tmp_path):
    keep_moment(CAPTIONS, encoder, tmp_path)
    keep_moment(CAPTIONS[:2], encoder, tmp_path)
    keep_moment(CAPTIONS, type(encoder)(fingerprint="another"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file", None])
def test_a_damaged_cache_file_is_computed_again_and_said(encoder, tmp_path, caplog, damage):
    good = keep_moment(CAPTIONS, encoder, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        again = keep_moment(CAPTIONS, encoder, tmp_path)
    assert "cannot be used" in caplog.text
    assert torch.equal(good.moment, again.moment)
    encoder.encoded.clear()
    keep_moment(CAPTIONS, encoder, tmp_path)
    assert not encoder.encoded


def test_a_cache_file_of_another_width_or_with_nan_is_computed_again(encoder, tmp_path):
    from safetensors.torch import save_file

    good = keep_moment(CAPTIONS, encoder, tmp_path)
    (path,) = tmp_path.iterdir()
    for moment in (torch.zeros(3, 3), torch.full_like(good.moment, torch.nan)):
        save_file({"moment": moment, "samples": good.samples}, path)
        assert torch.equal(keep_moment(CAPTIONS, encoder, tmp_path).moment, good.moment)


def test_a_folder_that_cannot_be_written_is_a_warning(encoder, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        kept = keep_moment(CAPTIONS, encoder, tmp_path / "file" / "cache")
    assert "cannot be written" in caplog.text
    assert torch.allclose(kept.moment, literal(encoder, CAPTIONS))


def test_cancel_leaves_no_file(encoder, tmp_path):
    def cancel(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_moment(CAPTIONS, encoder, tmp_path, cancel)
    assert not list(tmp_path.iterdir())


def test_the_least_recently_used_files_go(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "FILES", 2)
    for number, caption in enumerate(CAPTIONS[:2]):
        keep_moment((caption,), encoder, tmp_path)
        for path in tmp_path.iterdir():
            os.utime(path, (number, number)) if path.stat().st_mtime > 1e6 else None
    keep_moment(CAPTIONS[:1], encoder, tmp_path)  # used again
    keep_moment(CAPTIONS[2:], encoder, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    encoder.encoded.clear()
    keep_moment(CAPTIONS[:1], encoder, tmp_path)
    assert not encoder.encoded
