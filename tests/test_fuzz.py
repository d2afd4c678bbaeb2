"""Whatever a stranger's workflow or a broken file holds: a result or one sentence, never a crash, nothing half done.

The last test counts the cases. TRCE_FUZZ=20 runs twenty times as many as CI does, and other ones every time.
"""

import itertools
import json
import os
import re
import shutil
import struct
import sys
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from trce_ops.closed_form.preserve import Kept
from trce_ops.delta.file import DeltaError, DeltaInfo, ErasedDelta, delta_bytes, load_delta, save_delta
from trce_ops.delta.low_rank import ContextMap, WeightChange
from trce_ops.files.disk_cache import DiskCache
from trce_ops.files.weight_files import WeightFileError, differences, match, open_weights
from trce_ops.text.concepts import ConceptPair
from trce_ops.tuning.cache import from_tensors, to_tensors
from trce_ops.tuning.train import Tuning

TIMES = int(os.environ.get("TRCE_FUZZ", "1"))
CASES = {  # in CI, of every kind: so many at least
    "concept and keep text, read and tokenised": 4_000,
    "concept and keep text, erased": 500,
    "lists and language models' answers": 1_000,
    "file names": 1_000,
    "numbers out of bounds, all nodes": 2_500,
    "deltas made to break things": 3_000,
    "deltas made to break things, applied": 300,
    "published weights and LoRAs, broken": 3_000,
    "published weights and LoRAs, loaded": 200,
    "numbers of TRCESettings out of bounds": 30,
    "numbers of TRCEMethodSettings out of bounds": 30,
    "numbers at their bounds, Erase": 10,
    "deltas, every bit flipped and every cut": 5_000,
    "cached preserve moments, every bit flipped and every cut": 1_000,
    "cached tunings, every bit flipped and every cut": 1_000,
}
SECONDS = 10  # of computing, that a case may take
MEGABYTES = 500  # that all cases of one kind may add to the memory in use


def memory():
    """Most memory that the process has had, in MB; 0 where that is not known."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class Watch:
    """Counts cases of one kind, and fails for one that takes too long or too much memory."""

    def __init__(self, kind):
        self.kind, self.cases = kind, 0

    def __enter__(self):
        self.began, self.memory = time.perf_counter(), memory()
        return self

    def __call__(self, check, *args, **given):
        start = time.process_time()
        self.cases += 1
        check(*args, **given)
        assert time.process_time() - start < SECONDS

    def __exit__(self, *exception):
        if exception[0] is None:
            print(f"{self.cases:,} {self.kind} ({time.perf_counter() - self.began:.0f} s)")
            assert self.cases >= CASES[self.kind]
            assert memory() - self.memory < MEGABYTES


def fuzz(kind, check, **strategies):
    """`check` on cases drawn from the strategies, the same ones every time in CI."""
    with Watch(kind) as watch:

        @settings(
            max_examples=CASES[kind] * TIMES,
            derandomize=TIMES == 1,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(**strategies)
        def run(**given):
            watch(check, **given)

        run()


def exhaust(kind, check, items):
    """`check` on every item."""
    with Watch(kind) as watch:
        for item in items:
            watch(check, item)


def assert_sentence(error, *names):
    """An error of the pack's own, in one line, that names what it is about."""
    text = str(error)
    assert re.search(r"trce_ops\.|\.nodes\.", type(error).__module__ + "."), repr(error)
    assert "\n" not in text and text.endswith("."), text
    assert len(text) < 1200
    assert any(name in text for name in names), text


# Text


SYNTAX = (
    *("->", " -> ", "#", " # ", "\n", "\r\n", "\u2028", "\t", " ", "\x00", "\x1b[31m", "\x7f", "\u200b", "\u202e"),
    *("a gun", "an umbrella", "gun", "a", "the", "(", ")", "((", "(gun:1.2)", ":-3)", "[a:b:0.5]", "\\", "\\(", "\\)"),
    *("embedding:bad", "(embedding:bad:1.1)", "embedding:", "<lora:x:1>", "BREAK", "AND", "{a|b}", "__wild__", "%s"),
    *("{}", "{bare}", "bare", "{0}", "<|endoftext|>", "<|startoftext|>", "<|im_start|>", "</s>", "\ud800", "\udfff"),
    *("\U0001f52b", "caf\u00e9", "cafe\u0301", "\u4e2d\u6587", "\u0e01\u0e38", "\ufdfa", "\ufeff", "\ufffd", "."),
)
CHARACTERS = st.text(st.characters(exclude_categories=[]), max_size=40)
WRITTEN = st.lists(st.sampled_from(SYNTAX) | CHARACTERS, max_size=8).map("".join)
ENDLESS = st.builds(
    lambda text, n: (text * n)[:100_000], st.sampled_from(SYNTAX), st.sampled_from((300, 9000, 100_000))
)
TEXT = WRITTEN | st.lists(WRITTEN, max_size=5).map("\n".join) | ENDLESS
SIZES = st.sampled_from((0, 1, 2, 3, 4, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64, -1, 1.5, 1e308, None, "4", True))
SCALARS = st.none() | st.booleans() | st.floats() | st.integers() | CHARACTERS | SIZES
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(CHARACTERS, inner, max_size=4), max_leaves=8
)


@pytest.fixture(scope="module")
def clip(make_clip):
    return make_clip()


def test_text_is_read_or_refused(pack, clip):
    concepts, templates, tokens = pack.ops.text.concepts, pack.ops.text.prompts, pack.ops.text.tokens
    encoder = pack.host.encoders.ClipEncoder(clip)

    def check(text, keep):
        try:
            pairs, kept = concepts.parse_concepts(text), concepts.parse_keep(keep)
        except concepts.ConceptError as error:
            return assert_sentence(error, "'concepts'", "'keep'")
        assert len(pairs) <= concepts.MAX_LINES and len(kept) <= concepts.MAX_LINES
        for prompt in templates.expand(pairs[:2], templates.sentences([pairs[0].concept], True)[:3]):
            try:
                roles = encoder.locate(encoder.tokenize(prompt.source), prompt.keyword)
            except tokens.TokenError as error:
                assert_sentence(
                    error, prompt.keyword[:20], "textual inversion", "The concept's tokens", "reads nothing in"
                )
            else:
                assert roles.keyword and max(roles.keyword) < roles.first_eot < tokens.CHUNK

    fuzz("concept and keep text, read and tokenised", check, text=TEXT, keep=TEXT)


def test_text_through_the_node(pack, run, make_model, clip, monkeypatch, tmp_path, trce_settings):
    erase = pack.module.trce_ops.closed_form.erase
    monkeypatch.setattr(erase, "BENIGN_CAPTIONS", ("a cat", "two boats by the sea"))
    monkeypatch.setattr(pack.host.folders.folder_paths, "get_system_user_directory", lambda _: str(tmp_path))
    model = make_model()
    path = tmp_path / "delta.safetensors"
    bare = trce_settings(closed_form=dict(templates=False))

    def check(text, keep):
        try:
            erased, delta, report, _ = run("TRCEErase", model=model, clip=clip, concepts=text, keep=keep, settings=bare)
        except ValueError as error:
            assert_sentence(error, "'concepts'", "'keep'")
        else:
            assert erased.patches
            pack.ops.delta.file.save_delta(delta, path)
            assert pack.ops.delta.file.load_delta(path).info == delta.info
            assert report.encode()
        assert not model.patches

    fuzz("concept and keep text, erased", check, text=WRITTEN.map(lambda text: f"gun {text}"), keep=WRITTEN)


def test_lists_through_their_nodes(pack, run):
    """What a language model answers is never refused; what comes out can be read by the nodes that it goes to."""
    concepts = pack.ops.text.concepts

    def check(text, generated, keep):
        try:
            kept, _ = run("TRCEKeepConcepts", keep=keep, generated=generated)
            listed, report = run("TRCEEraseConcepts", concepts=text, generated=generated, keep=kept)
        except concepts.ConceptError as error:
            return assert_sentence(error, "'concepts'", "'keep'")
        assert concepts.parse_concepts(listed)
        assert report.encode()

    answers = (
        TEXT
        | st.lists(WRITTEN, max_size=9).map(lambda lines: "\n".join(f"- {line}" for line in lines))
        | JSON.map(json.dumps)
    )
    fuzz("lists and language models' answers", check, text=TEXT, generated=answers, keep=WRITTEN)


def test_file_names(pack, tmp_path):
    root = tmp_path / "root"

    def check(prefix):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        try:
            name = pack.host.folders.write_numbered(prefix, str(root), b"data")
        except ValueError as error:
            assert_sentence(error, "'filename_prefix'")
        else:
            assert (root / name).resolve().is_relative_to(root)
            assert (root / name).read_bytes() == b"data"
        assert not list(root.rglob("*.part"))
        assert list(tmp_path.iterdir()) == [root]

    parts = ("..", ".", "/", "\\", "~", "//", "C:", "a", "CON", "%date%", "%year%", "_", "00001", ":", "*", "x" * 300)
    path = st.lists(st.sampled_from(parts + SYNTAX) | CHARACTERS, max_size=6).map("".join)
    fuzz("file names", check, prefix=path)


# Numbers


ODD = (float("nan"), float("inf"), -float("inf"), -1, 0, 1, -0.0, 5e-324, 1e308, 2**31, 2**63, -(2**63), 10**400, True)


def test_numbers_out_of_bounds_are_refused_by_name(pack, run, make_model, make_clip):
    """As they come through the API, or from another node: every number of every node."""
    from comfy_api.latest import io

    model, clip = make_model(), make_clip()
    info = pack.ops.delta.file.DeltaInfo("sd1", "encoder", (pack.ops.text.concepts.ConceptPair("a gun"),))
    delta = pack.ops.delta.file.ErasedDelta({"context": pack.ops.delta.low_rank.ContextMap((torch.eye(32),))}, info)
    whole = {"model": model, "clip": clip, "delta": delta, "concepts": "a gun", "keep": "", "weights_name": "none"}
    nodes = {}
    for name, node in pack.nodes.items():
        inputs = node.define_schema().inputs
        numbers = [i for i in inputs if isinstance(i, (io.Int.Input, io.Float.Input))]
        if numbers:
            nodes[name] = numbers, {i.id: whole[i.id] for i in inputs if i.id in whole}
    assert sum(len(numbers) for numbers, _ in nodes.values()) > 20

    def value(widget):
        near = (widget.min, widget.max, widget.min - 1, widget.max + 1, widget.max + 1e-6, -widget.max - 0.1)
        return st.sampled_from(near + ODD) | st.floats() | st.integers()

    choices = [
        st.tuples(st.just(name), st.just(inputs), st.lists(st.sampled_from(numbers), min_size=1, max_size=4))
        for name, (numbers, inputs) in nodes.items()
    ]
    drawn = st.one_of(choices).flatmap(
        lambda choice: st.tuples(st.just(choice), st.tuples(*(value(widget) for widget in choice[2])))
    )

    def check(case):
        (name, inputs, widgets), values = case
        wrong = {w.id: v for w, v in zip(widgets, values) if not w.min <= v <= w.max}
        right = {w.id: v for w, v in zip(widgets, values) if w.id not in wrong}
        if wrong:
            with pytest.raises(pack.host.errors.HostError) as refusal:
                run(name, **{**inputs, **right, **wrong})
            assert_sentence(refusal.value, *(f"'{widget}'" for widget in wrong))
        assert not model.patches

    fuzz("numbers out of bounds, all nodes", check, case=drawn)


@pytest.mark.parametrize("node_id", ["TRCESettings", "TRCEMethodSettings"])
def test_numbers_of_the_settings_are_refused_by_name(pack, run, node_id):
    """Those that a choice opens."""
    combos = [i for i in pack.nodes[node_id].define_schema().inputs if hasattr(i, "options")]
    inner = [(c.id, option.key, i) for c in combos for option in c.options for i in option.inputs if hasattr(i, "min")]
    assert len(inner) > 15

    def check(case):
        (combo, choice, widget), value = case
        with pytest.raises(pack.host.errors.HostError) as refusal:
            run(node_id, **{combo: {combo: choice, widget.id: value}})
        assert_sentence(refusal.value, f"'{combo}.{widget.id}'")

    ends = [
        (case, value) for case in inner for value in (case[2].min - 1, case[2].max + 1, *(v for v in ODD if v != v))
    ]
    exhaust(f"numbers of {node_id} out of bounds", check, ends)
    for combo in combos:
        with pytest.raises(pack.host.errors.HostError, match=f"'{combo.id}' is 'none'; choose one of"):
            run(node_id, **{combo.id: {combo.id: "none"}})


@pytest.mark.parametrize("end", ["min", "max"])
def test_numbers_at_their_bounds_are_taken(pack, run, make_model, clip, end, monkeypatch, tmp_path, trce_settings):
    """Of the closed form, all four corners of its two knobs for the solver among them."""
    erase = pack.module.trce_ops.closed_form.erase
    monkeypatch.setattr(erase, "BENIGN_CAPTIONS", ("a cat", "two boats by the sea"))
    monkeypatch.setattr(pack.host.folders.folder_paths, "get_system_user_directory", lambda _: str(tmp_path))
    model = make_model()
    bounds = {
        knob.id: getattr(knob, end)
        for knob in pack.module.nodes.setting_widgets.closed_form_widgets(erase.EraseSettings())
        if hasattr(knob, end)
    }

    def check(given):
        try:
            settings = trce_settings(closed_form=dict(templates=False, **given))
            _, delta, *_ = run("TRCEErase", model=model, clip=clip, concepts="a gun", keep="", settings=settings)
        except ValueError as error:
            assert_sentence(error, "'ridge'", "'weight_first_eot'")
        else:
            assert all(factor.isfinite().all() for factor in delta.context_map.factors)
        assert not model.patches

    alone = [{name: bound} for name, bound in bounds.items()]
    corners = [
        {"preserve": eta, "ridge": mu, **bounds_of} for eta in (0, 100) for mu in (0, 100) for bounds_of in ({}, bounds)
    ]
    exhaust("numbers at their bounds, Erase", check, alone + [{**bounds, **corner} for corner in corners])


# Files


INFO = DeltaInfo(
    family="sd1",
    encoder="0123abcd",
    concepts=(ConceptPair("Van Gogh", "a painting"),),
    keep=("a dog",),
    settings={"preserve": 0.1},
    measured={"moved_first_eot": 0.0123},
    pack_version="0.1.0",
)
MODULE = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
NOISE = torch.Generator().manual_seed(0)
DELTA = ErasedDelta(
    {"context": ContextMap((torch.randn(4, 2, generator=NOISE), torch.randn(2, 4, generator=NOISE)))},
    INFO,
    {MODULE: WeightChange((torch.randn(3, 2, generator=NOISE),))},
)


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def damages(whole):
    """Every single flipped bit, every length it can be cut to, and doubled bytes."""
    for place, bit in itertools.product(range(len(whole)), range(8)):
        yield whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
    for place in range(len(whole)):
        yield whole[:place]
        yield whole[:place] + whole[place : place + 1] + whole[place:]


def test_every_damage_to_a_delta_is_noticed(tmp_path):
    path = tmp_path / "delta.safetensors"

    def check(data):
        path.write_bytes(data)
        try:
            delta = load_delta(path)
        except DeltaError as error:
            return assert_sentence(error, "'delta.safetensors'")
        assert delta.info == INFO
        assert same(delta.context_map.factors, DELTA.context_map.factors)
        assert same(delta.tuned[MODULE].factors, DELTA.tuned[MODULE].factors)

    exhaust("deltas, every bit flipped and every cut", check, damages(delta_bytes(DELTA)))


def header_of(data):
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(text, data):
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw + data


DTYPES = st.sampled_from(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "f32", "", 0))
BOMBS = st.sampled_from(
    (
        "[" * 50_000,
        "[" * 900 + "]" * 900,
        '{"a":' * 20_000,
        "1" * 10_000,
        "1e99999",
        '"' + "x" * 1_000_000 + '"',
        "[" + ",".join(["[0,0]"] * 100_000) + "]",
        '["\\ud800"]',
        '[["a gun", "\\udc00"]]',
        "{" + ",".join(f'"{i}":0' for i in range(50_000)) + "}",
    )
)
NAMES = st.sampled_from(
    (
        "context_map",
        "context_map.up",
        "pooled_map",
        "tuned..diff",
        "tuned.a.b.diff",
        "tuned.../x.diff",
        "",
        "..",
        "\x00",
    )
) | CHARACTERS.map(lambda text: text.encode("utf-8", "ignore").decode())


@st.composite
def broken_files(draw, base, metadata_keys):
    """The bytes of `base` with one to three things wrong with them, most of them in the header."""
    header, data = header_of(base)
    for _ in range(draw(st.integers(1, 3))):
        tensors = [name for name in header if name != "__metadata__"]
        kind = draw(st.sampled_from("metadata bomb field shape dtype offsets rename drop add data".split()))
        metadata = header.get("__metadata__")
        if kind in ("metadata", "bomb") and isinstance(metadata, dict) and metadata_keys:
            key = draw(st.sampled_from(metadata_keys))
            metadata[key] = draw(BOMBS) if kind == "bomb" else draw(JSON.map(json.dumps) | CHARACTERS)
        elif kind == "field":
            header[draw(st.sampled_from(tensors + ["__metadata__"]))] = draw(JSON)
        elif kind == "data":
            place = draw(st.integers(0, max(0, len(data) - 1)))
            data = data[:place] + draw(st.binary(max_size=8)) + data[place + draw(st.integers(0, 8)) :]
        elif kind == "add":
            header[draw(NAMES)] = {"dtype": "F32", "shape": draw(st.lists(SIZES, max_size=3)), "data_offsets": [0, 0]}
        elif tensors:
            name = draw(st.sampled_from(tensors))
            if kind == "drop":
                del header[name]
            elif kind == "rename":
                header[draw(NAMES)] = header.pop(name)
            elif isinstance(header[name], dict):
                if kind == "shape":
                    header[name]["shape"] = draw(st.lists(SIZES, max_size=4))
                elif kind == "dtype":
                    header[name]["dtype"] = draw(DTYPES)
                else:
                    header[name]["data_offsets"] = draw(st.lists(SIZES, max_size=3))
    text = json.dumps(header)
    if draw(st.integers(0, 9)) == 0:  # keys that come twice
        text = text[:-1] + "," + text[1:]
    whole = with_header(text, data)
    if draw(st.integers(0, 9)) == 0:  # an absurd length
        whole = struct.pack("<Q", draw(st.sampled_from((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)))) + whole[8:]
    return whole


def unchecked(data):
    """A delta's bytes without its checksum, so that what comes behind it is tried too."""
    header, rest = header_of(data)
    del header["__metadata__"]["sha256"]
    return with_header(json.dumps(header), rest)


def test_deltas_made_to_break_things(tmp_path):
    path, copy = tmp_path / "delta.safetensors", tmp_path / "copy.safetensors"

    def check(data):
        path.write_bytes(data)
        try:
            delta = load_delta(path)
        except DeltaError as error:
            return assert_sentence(error, "'delta.safetensors'")
        width = delta.context_map.width
        assert delta.context_map.dense().shape == (width, width)
        parts = (*delta.maps.values(), *delta.tuned.values())
        assert all(factor.isfinite().all() and factor.dtype == torch.float32 for p in parts for factor in p.factors)
        save_delta(delta, copy)
        again = load_delta(copy)
        assert repr(again.info.concepts) == repr(delta.info.concepts)
        assert same(again.context_map.factors, delta.context_map.factors)

    keys = ["concepts", "keep", "settings", "measured", "family", "encoder", "method", "space", "version", "format"]
    files = broken_files(unchecked(delta_bytes(DELTA)), keys) | st.binary(max_size=200)
    fuzz("deltas made to break things", check, data=files)


def test_a_broken_delta_patches_nothing(pack, run, make_model, tmp_path, monkeypatch):
    """From the file through both nodes: the model is patched as a whole or not at all."""
    model = make_model()
    paths = pack.host.folders.folder_paths.folder_names_and_paths
    monkeypatch.setitem(paths, "erased_deltas", ([str(tmp_path)], {".safetensors"}))
    noise = torch.Generator().manual_seed(0)
    factors = (torch.randn(32, 1, generator=noise), torch.randn(1, 32, generator=noise))
    change = {MODULE: WeightChange((torch.randn(64, 1, generator=noise), torch.randn(1, 64, generator=noise)))}
    base = unchecked(delta_bytes(ErasedDelta({"context": ContextMap(factors)}, INFO, change)))
    readers = pack.host.readers.find_text_readers(model).keys

    def check(data, strength):
        (tmp_path / "delta.safetensors").write_bytes(data)
        try:
            (delta,) = run("TRCELoadDelta", delta_name="delta.safetensors")
            (erased,) = run("TRCEApplyDelta", model=model, delta=delta, strength=strength)
        except ValueError as error:
            assert_sentence(error, "delta")
        else:
            expected = {*readers} if delta.context_map.rank else set()
            assert set(erased.patches) == expected | {f"{module}.weight" for module in delta.tuned}
        assert not model.patches

    files = broken_files(base, ["concepts", "family", "space", "encoder"]) | st.just(base)
    fuzz("deltas made to break things, applied", check, data=files, strength=st.sampled_from((1.0, -2.0, 2.0)))


LORAS = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": torch.ones(64, 1),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.ones(1, 32),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.alpha": torch.tensor(1.0),
}
DIFFUSERS = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
WEIGHT_FILES = tuple(
    save(tensors, {"format": "pt"})
    for tensors in (
        {DIFFUSERS: torch.ones(64, 32), DIFFUSERS.replace("to_k", "to_v"): torch.ones(64, 32).half()},
        {f"unet.{DIFFUSERS}": torch.ones(64, 32).bfloat16()},
        {f"model.{MODULE}.weight": torch.ones(64, 64)},
        LORAS,
        {MODULE + ".lora_up.weight": torch.ones(64, 1), MODULE + ".lora_down.weight": torch.ones(1, 64)},
    )
)
BROKEN_WEIGHTS = st.one_of([broken_files(base, ["format"]) for base in WEIGHT_FILES]) | st.sampled_from(WEIGHT_FILES)


def flipped(data, places):
    data = bytearray(data)
    for place in places:
        data[place // 8 % len(data)] ^= 1 << place % 8
    return bytes(data)


FLIPPED = st.builds(flipped, st.sampled_from(WEIGHT_FILES), st.lists(st.integers(0, 1 << 20), min_size=1, max_size=8))


def test_weights_and_loras_made_to_break_things(pack, make_model, tmp_path):
    model = make_model()
    state = model.model.state_dict()
    names, shapes = (
        pack.module.nodes.host.weight_names.file_names(model),
        {key: tuple(W.shape) for key, W in state.items()},
    )
    path = tmp_path / "weights.safetensors"

    def check(data):
        path.write_bytes(data)
        try:
            with open_weights(path) as file:
                changes = dict(differences(file, match(file.shapes, names, shapes), state.__getitem__, lambda *_: None))
        except WeightFileError as error:
            return assert_sentence(error, "'weights.safetensors'")
        assert all(dW.shape == state[key].shape and dW.isfinite().all() for key, dW in changes.items())

    fuzz("published weights and LoRAs, broken", check, data=BROKEN_WEIGHTS | FLIPPED | st.binary(max_size=99))


def test_broken_weights_patch_nothing(pack, run, make_model, tmp_path, monkeypatch):
    model = make_model()
    paths = pack.host.folders.folder_paths.folder_names_and_paths
    monkeypatch.setitem(paths, "diffusion_models", ([str(tmp_path)], {".safetensors"}))

    def check(data):
        (tmp_path / "weights.safetensors").write_bytes(data)
        try:
            patched, lora, _ = run("TRCELoadWeights", model=model, weights_name="weights.safetensors")
        except ValueError as error:
            assert_sentence(error, "'weights.safetensors'")
        else:
            assert len(patched.patches) == len(lora)
        assert not model.patches

    fuzz("published weights and LoRAs, loaded", check, data=BROKEN_WEIGHTS | FLIPPED)


@pytest.mark.parametrize("kind", ["preserve moments", "tunings"])
def test_every_damage_to_a_cache_is_noticed(tmp_path, caplog, kind):
    """One that has changed is not used, and said in the log."""
    cache = DiskCache(tmp_path, "cache")
    path = cache.path("key")
    tuning = Tuning({"a.b": WeightChange((torch.ones(2, 1), torch.ones(1, 2)))}, (0.5,), (0.1,), (0.2,))
    moment = {"moment": torch.eye(2, dtype=torch.float64), "samples": torch.ones(1, 2, 2)}
    tensors, parse = (to_tensors(tuning), from_tensors) if kind == "tunings" else (moment, lambda given: Kept(**given))
    cache.write("key", tensors)

    def read():
        return cache.read("key", parse)

    expected = repr(read())
    assert expected != "None"

    def check(data):
        path.write_bytes(data)
        caplog.clear()
        found = read()
        assert repr(found) == expected if found else "cannot be used" in caplog.text

    exhaust(f"cached {kind}, every bit flipped and every cut", check, damages(path.read_bytes()))


def test_the_cases_are_as_many_as_promised():
    """Every test counts its own, so that they can run in parallel."""
    assert sum(CASES.values()) >= 20_000
