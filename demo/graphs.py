"""Describes a graph once and writes it in every form that ComfyUI reads: for its UI, for its API, and as a blueprint.

Which inputs a node has, and in which order, is asked of a real ComfyUI (its object_info), so that a graph is up to date
after a node has changed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACK = "comfyui-trce"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
GREEN, SAND = {"color": "#232", "bgcolor": "#353"}, {"color": "#432", "bgcolor": "#000"}
SEEDS = ("seed", "noise_seed")  # which the frontend gives a control even where the node asks for none
OUTSIDE_IN, OUTSIDE_OUT = -10, -20  # the node ids of a subgraph's own inputs and outputs

Link = tuple[int, int]  # node id, slot


@dataclass(frozen=True)
class Node:
    """A node of a graph that is being described; node[i] is its i-th output, to be connected to an input."""

    id: int

    def __getitem__(self, slot: int) -> Link:
        return self.id, slot


@dataclass(frozen=True)
class Port:
    """An input or an output of a subgraph, by its name outside."""

    name: str
    type: str
    default: Any = None


class NotHere(Exception):
    """This ComfyUI lacks a node of the template."""


class Graph:
    """A workflow, written down node by node. Inputs that are not given have their defaults."""

    def __init__(
        self,
        name: str,
        info: dict[str, Any],
        versions: dict[str, str],
        models: dict[str, tuple[str, str]] | None = None,
    ) -> None:
        """info: object_info. versions: of "pack" and "core". models: folder and address of files that a node names."""
        self.name, self.info, self.versions, self.models = name, info, versions, models or {}
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.api: dict[str, Any] = {}
        self.inputs: list[Port] = []
        self.outputs: list[tuple[Port, Link]] = []

    def input(self, name: str, type: str, default: Any = None) -> Link:
        """An input of the subgraph, to be connected; `default` is what its widget holds."""
        self.inputs.append(Port(name, type, default))
        return OUTSIDE_IN, len(self.inputs) - 1

    def output(self, name: str, link: Link) -> None:
        """An output of the subgraph."""
        type = self.nodes[link[0] - 1]["outputs"][link[1]]["type"]
        self.outputs.append((Port(name, type), link))

    def add(self, kind: str, at: tuple[int, int], size: tuple[int, int], title: str = "", **given: Any) -> Node:
        """A node of type `kind` at a place of the canvas; `given` are connections (node[slot]) and widget values."""
        if kind not in self.info:
            raise NotHere(f"{self.name}: not written, for this ComfyUI has no {kind}")
        node_id, known = len(self.nodes) + 1, self.info[kind]
        inputs, values, sent, models = [], [], {}, []
        for name, sort, options in _flat(known["input"], given):
            if sort == "IMAGECOMPARE":
                values.append([[], []])
                sent[name] = {"__value__": ["", ""]}
                continue
            link = given.pop(name) if isinstance(given.get(name), tuple) else None
            entry = {"name": name, "type": "*" if "COMFY_MATCHTYPE" in sort else sort, "link": None}
            if link:
                self.links.append([len(self.links) + 1, *link, node_id, len(inputs), None])
                entry["link"] = len(self.links)
                sent[name] = [str(link[0]), link[1]]
            if (sort in WIDGETS or sort == DYNAMIC) and not options.get("forceInput"):
                entry["widget"] = {"name": name}
                outside = self.inputs[link[1]].default if link and link[0] == OUTSIDE_IN else None
                value = given.pop(name, _default(sort, options)) if outside is None else outside
                values.append(value)
                if options.get("control_after_generate", name in SEEDS):
                    values.append("fixed")
                if options.get("image_upload"):
                    values.append("image")
                if not link:
                    sent[name] = value
                if value in self.models:
                    folder, address = self.models[value]
                    models.append({"name": value, "url": address, "directory": folder})
            inputs.append(entry)
        if given:
            raise KeyError(f"{self.name}: {kind} has no input {sorted(given)}, it has {[i['name'] for i in inputs]}")
        pack = kind.startswith("TRCE")
        properties = {"cnr_id": PACK if pack else "comfy-core", "ver": self.versions["pack" if pack else "core"]}
        properties["Node name for S&R"] = kind
        if models:
            properties["models"] = models
        outputs = [
            {"name": name, "type": sort, "links": []}
            for name, sort in zip(known["output_name"], known["output"], strict=True)
        ]
        self._place(node_id, kind, at, size, title, inputs, outputs, properties, values, GREEN if pack else {})
        meta = {"title": title or known["display_name"] or kind}
        self.api[str(node_id)] = {"class_type": kind, "inputs": sent, "_meta": meta}
        return Node(node_id)

    def note(self, text: str, at: tuple[int, int], size: tuple[int, int], title: str = "Read me") -> None:
        self._place(len(self.nodes) + 1, "MarkdownNote", at, size, title, [], [], {}, [text], SAND)

    def _place(self, node_id, kind, at, size, title, inputs, outputs, properties, values, colours) -> None:
        self.nodes.append(
            {"id": node_id, "type": kind, "pos": list(at), "size": list(size), "flags": {}, "order": node_id - 1}
            | {"mode": 0, "inputs": inputs, "outputs": outputs}
            | {"properties": properties, "widgets_values": values}
            | ({"title": title} if title else {})
            | colours
        )

    def write(self, folder: Path) -> None:
        """NAME.json for the UI and api/NAME.json."""
        self._connect()
        graph = self._head() | {
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {"ds": {"scale": 0.8, "offset": [60, 120]}},
            "version": 0.4,
        }
        _write(folder / f"{self.name}.json", graph, 1)
        _write(folder / "api" / f"{self.name}.json", self.api, 2)

    def write_blueprint(self, folder: Path, title: str, description: str) -> None:
        """NAME.json, a graph of one node: the subgraph, as the node library offers it."""
        for slot, (_, link) in enumerate(self.outputs):
            self.links.append([len(self.links) + 1, *link, OUTSIDE_OUT, slot, None])
        self._connect()
        links = [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
            for link in self.links
        ]
        height = 20 * max(len(self.inputs), len(self.outputs)) + 40
        left, right = -200, max(node["pos"][0] + node["size"][0] for node in self.nodes) + 60
        ports = {
            "inputs": [self._port(p, OUTSIDE_IN, "origin", n, left + 100) for n, p in enumerate(self.inputs)],
            "outputs": [self._port(p, OUTSIDE_OUT, "target", n, right) for n, (p, _) in enumerate(self.outputs)],
        }
        subgraph = {
            "id": self._uuid("subgraph"),
            "version": 1,
            "state": {"lastGroupId": 0, "lastNodeId": len(self.nodes), "lastLinkId": len(links), "lastRerouteId": 0},
            "revision": 0,
            "config": {},
            "name": title,
            "inputNode": {"id": OUTSIDE_IN, "bounding": [left, 0, 120, height]},
            "outputNode": {"id": OUTSIDE_OUT, "bounding": [right, 0, 120, height]},
            **ports,
            "widgets": [],
            "nodes": self.nodes,
            "groups": [],
            "links": links,
            "extra": {},
            "category": "TRCE",
            "description": description,
        }
        sockets = [{"name": p.name, "type": p.type, "link": None} for p in self.inputs]
        promoted = []
        for slot, (port, socket) in enumerate(zip(self.inputs, sockets, strict=True)):
            if port.default is not None:
                socket["widget"] = {"name": port.name}
                target = next(link for link in links if link["origin_id"] == OUTSIDE_IN and link["origin_slot"] == slot)
                inner = self.nodes[target["target_id"] - 1]
                promoted.append([str(inner["id"]), inner["inputs"][target["target_slot"]]["name"]])
        box = {"id": len(self.nodes) + 1, "type": subgraph["id"], "pos": [0, 0], "size": [400, 560], "flags": {}}
        box |= {"order": 0, "mode": 0, "inputs": sockets, "title": title}
        box |= {"outputs": [{"name": p.name, "type": p.type, "links": []} for p, _ in self.outputs]}
        box |= {"properties": {"proxyWidgets": promoted}, "widgets_values": []}
        graph = self._head() | {"last_node_id": box["id"], "last_link_id": len(links), "nodes": [box], "links": []}
        _write(folder / f"{self.name}.json", graph | {"version": 0.4, "definitions": {"subgraphs": [subgraph]}}, 1)

    def _connect(self) -> None:
        """Tell every output which links it has, and every link its type."""
        for link in self.links:
            number, source, slot = link[:3]
            if source == OUTSIDE_IN:
                link[5] = self.inputs[slot].type
            else:
                output = self.nodes[source - 1]["outputs"][slot]
                output["links"].append(number)
                link[5] = output["type"]

    def _port(self, port: Port, node_id: int, end: str, slot: int, x: int) -> dict[str, Any]:
        at = (1, 2) if end == "origin" else (3, 4)
        numbers = [link[0] for link in self.links if (link[at[0]], link[at[1]]) == (node_id, slot)]
        place = {"linkIds": numbers, "pos": [x, 20 + 20 * slot]}
        return {"id": self._uuid(f"{end} {slot}"), "name": port.name, "type": port.type, **place}

    def _head(self) -> dict[str, Any]:
        return {"id": self._uuid(), "revision": 0, "last_node_id": len(self.nodes)}

    def _uuid(self, *parts: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join((PACK, self.name, *parts))))


def _flat(declared: dict[str, Any], given: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, dict]]:
    """Inputs in the frontend's order: name, type, options; after a dynamic combo those that its choice opens."""
    for name, (sort, *rest) in {**declared.get("required", {}), **declared.get("optional", {})}.items():
        options = rest[0] if rest else {}
        if isinstance(sort, list):  # a combo as older nodes declare it
            sort, options = "COMBO", {**options, "options": sort}
        yield prefix + name, sort, options
        if sort == DYNAMIC:
            choice = given.get(prefix + name, _default(sort, options))
            opened = next(option for option in options["options"] if option["key"] == choice)
            yield from _flat(opened["inputs"], given, f"{prefix}{name}.")


def _default(sort: str, options: dict[str, Any]) -> Any:
    if sort == DYNAMIC:
        return options["options"][0]["key"]
    choices = options.get("options") or [""]
    return options.get("default", choices[0])


def _write(path: Path, graph: dict[str, Any], indent: int) -> None:
    path.write_text(json.dumps(graph, indent=indent) + "\n", encoding="utf-8")
