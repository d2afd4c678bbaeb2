"""The real frontend in a real browser: templates, the blueprint, Queue, progress, Cancel, help, refreshing a list.

A Chromium is driven by Playwright. Pictures of what the browser showed are left in browser_output/.
"""

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError, expect, sync_playwright

from tools.host import Host
from tools.process import PACK_NAME
from trce_ops.lists.presets import ERASE_PRESETS
from trce_ops.text.concepts import parse_concepts

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCREENSHOTS = ROOT / "browser_output"
SECONDS = 180  # that a busy machine may take for anything but a workflow
FRONTEND = (0, 30)  # the first ComfyUI whose frontend has what is clicked here
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
ARGUMENTS = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
NEED_OTHER_MODELS = {name for name in NAMES if '"models"' in (WORKFLOWS / f"{name}.json").read_text()}
SHOWING = ("ImageCompare", "PreviewAny", "VAEDecode", "PreviewImage")  # the frontend keeps what they show in them
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.VueNodes.Enabled": False,
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.Workflow.Persist": False,
}
HARMLESS = (  # what a fresh ComfyUI says whatever is installed
    "/user.css",
    "/api/userdata",  # nothing is saved yet
    ".md",  # help is asked for in the user's language first
    "ComfyApp graph accessed before initialization",
    "https://",  # outside, for models of the stock workflow
)
READY = "() => window.app && app.vueAppReady && app.extensionManager && app.rootGraph"
LISTEN = """() => {
    window.seen = [];
    for (const name of ['progress', 'executing', 'executed', 'execution_success', 'execution_interrupted',
                        'execution_error'])
        app.api.addEventListener(name, event => seen.push({ name, detail: event.detail }));
}"""


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("COMFYUI_TRCE_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path == "none":
        pytest.skip("COMFYUI_TRCE_BROWSER is 'none'")
    if not path:
        pytest.fail(
            "No Chromium for the browser tests: install it (Debian, Ubuntu: apt install chromium), name one in "
            "COMFYUI_TRCE_BROWSER, or set that to 'none' to leave these tests out."
        )
    SCREENSHOTS.mkdir(exist_ok=True)
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        arguments = [f"--{argument}" for argument in ARGUMENTS.split()]
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(browser, models):
    with Host(models=models) as host:
        version = host.request("/system_stats")["system"]["comfyui_version"]
        if tuple(map(int, version.split(".")[:2])) < FRONTEND:
            pytest.skip(f"ComfyUI {version} brings another frontend than the one these tests click through")
        yield host


class Tab:
    """One browser tab with ComfyUI in it, and what went wrong there."""

    def __init__(self, context, server):
        self.server, self.errors = server, []
        self.page = context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _listen(self, message):
        text = f"{message.text} ({message.location['url']})"
        if message.type == "error" and not any(harmless in text for harmless in HARMLESS):
            self.errors.append(text)

    def open(self, template=None):
        query = f"/?template={template}&source={PACK_NAME}" if template else "/"
        self.page.goto(self.server.url + query)
        self.page.wait_for_function(READY)
        if template:
            count = len(json.loads((WORKFLOWS / f"{template}.json").read_text())["nodes"])
            self.page.wait_for_function(f"() => app.rootGraph.nodes.length === {count}")
        self.page.evaluate(LISTEN)
        return self

    def set(self, node_type, **values):
        """Write into the widgets of the first node of a type, as the user does."""
        change = """([type, values]) => {
            const node = app.rootGraph.nodes.find(node => node.type === type);
            for (const [name, value] of Object.entries(values))
                node.widgets.find(widget => widget.name === name).value = value;
        }"""
        self.page.evaluate(change, [node_type, values])

    def draw_little(self, seed):
        """Two steps and one picture; another seed than before, for ComfyUI remembers what it has run."""
        self.set("KSampler", steps=2, seed=seed)
        self.set("EmptyLatentImage", batch_size=1)

    def queue(self):
        self.page.get_by_test_id("queue-button").click()

    def events(self, name):
        return [event["detail"] for event in self.page.evaluate("seen") if event["name"] == name]

    def wait_for(self, name, seconds=600):
        found = f"() => seen.some(event => event.name === '{name}' || event.name === 'execution_error')"
        self.page.wait_for_function(found, timeout=seconds * 1000)
        assert not self.events("execution_error")

    def screenshot(self, name):
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.fixture
def open_tab(browser, server):
    """open_tab(template) -> a Tab; the test fails when any of them had an error in its console."""
    server.request("/queue", {"clear": True})
    server.interrupt()
    while any(server.request("/queue").values()):
        time.sleep(0.2)
    server.request("/api/settings", SETTINGS)
    context = browser.new_context(viewport={"width": 1600, "height": 900}, locale="en-US")
    context.route(lambda url: not url.startswith((server.url, "data:", "blob:")), lambda route: route.abort())
    tabs = []

    def open_tab(template=None, **settings):
        server.request("/api/settings", settings) if settings else None
        tabs.append(Tab(context, server).open(template))
        return tabs[-1]

    yield open_tab
    context.close()
    problems = [error for tab in tabs for error in tab.errors]
    assert not problems, "\n".join(problems)


def test_every_template_opens_from_the_template_browser(open_tab):
    tab = open_tab()
    page = tab.page
    dialog = page.get_by_test_id("template-workflows-content")
    for name in NAMES:
        if not dialog.is_visible():
            page.locator(".templates-tab-button").first.click()
        page.locator("nav").get_by_text(PACK_NAME, exact=True).click()
        card = page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()  # pictures further down are not loaded
        expect(card).to_be_visible()
        thumbnail = card.locator("img").first
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=thumbnail.element_handle())
        if name == NAMES[0]:
            tab.screenshot("templates")
        card.click()
        expect(dialog).to_be_hidden()

        graph = json.loads((WORKFLOWS / f"{name}.json").read_text())
        page.wait_for_function(f"() => app.rootGraph.nodes.length === {len(graph['nodes'])}")
        missing = "() => app.rootGraph.nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
        assert page.evaluate(missing) == []
        if name not in NEED_OTHER_MODELS:  # the others say that a model is missing, and offer it
            expect(page.get_by_test_id("error-overlay")).to_have_count(0)
        expect(page.get_by_text("Missing Node Packs")).to_have_count(0)
        opened = page.evaluate("() => app.rootGraph.serialize()")
        assert outline(opened) == outline(graph)
        prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
        assert prompt == json.loads((WORKFLOWS / "api" / f"{name}.json").read_text()), f"the API twin of {name}"
        tab.screenshot(f"template-{name}")


def outline(graph):
    """What of a graph decides what it does. The frontend puts sockets before widgets, so inputs go by name."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    values = {i: node.get("widgets_values") for i, node in nodes.items() if node["type"] not in SHOWING}
    links = [(source, slot, nodes[to]["inputs"][at]["name"], to) for _, source, slot, to, at, _ in graph["links"]]
    return {i: (node["type"], node["mode"]) for i, node in nodes.items()}, values, sorted(links)


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["classic nodes", "new nodes"])
def test_queue_draws_with_a_bar_that_moves(open_tab, vue_nodes):
    tab = open_tab("erase-a-concept", **{"Comfy.VueNodes.Enabled": vue_nodes})
    tab.draw_little(seed=100 + vue_nodes)
    titles = "() => { window.titles = new Set(); setInterval(() => titles.add(document.title), 20); }"
    tab.page.evaluate(titles)
    tab.queue()
    tab.wait_for("execution_success")
    assert any("%]" in title for title in tab.page.evaluate("[...titles]"))  # such as "[40%] TRCE Erase"
    assert len({step["value"] for step in tab.events("progress")}) >= 2

    picture = "() => app.rootGraph.nodes.find(n => n.type === 'SaveImage').imgs?.[0]"
    tab.page.wait_for_function(f"{picture}?.naturalWidth === 64")
    report = tab.page.evaluate("() => app.rootGraph.nodes.find(n => n.type === 'PreviewAny').widgets[0].value")
    assert "concepts" in report
    if vue_nodes:
        expect(tab.page.get_by_test_id("main-image").first).to_be_visible()
    tab.screenshot("erased-new-nodes" if vue_nodes else "erased")


def test_cancel_stops_the_run(open_tab, server):
    tab = open_tab("erase-a-concept")
    tab.draw_little(seed=102)
    tab.set("TRCEErase", keep="\n".join(f"a thing of kind {i}" for i in range(80)))
    tab.set("TRCESettings", **{"closed_form": "custom", "closed_form.weight_pads": 0.5})
    tab.queue()
    tab.wait_for("progress")
    tab.page.get_by_role("button", name="Cancel current run").click()
    tab.wait_for("execution_interrupted")
    steps = len(tab.events("progress"))
    assert not any(server.request("/queue").values())
    (entry,) = server.request("/history?max_items=1").values()
    assert not entry["status"]["completed"]
    time.sleep(1)
    assert len(tab.events("progress")) == steps


def test_a_delta_saved_in_one_tab_is_offered_in_another_after_refresh(open_tab, server):
    loading, erasing = open_tab("apply-a-saved-delta"), open_tab("erase-a-concept")
    offered = """() => app.rootGraph.nodes.find(n => n.type === 'TRCELoadDelta')
        .widgets.find(w => w.name === 'delta_name').options.values"""
    erasing.draw_little(seed=103)
    erasing.set("TRCESaveDelta", filename_prefix="test/from_the_browser")
    before = set(loading.page.evaluate(offered))
    erasing.queue()
    erasing.wait_for("execution_success")
    folder = server.models / "erased_deltas"
    try:
        loading.page.bring_to_front()
        loading.page.locator("#graph-canvas").click(position={"x": 700, "y": 780})
        loading.page.keyboard.press("r")
        loading.page.wait_for_function(f"count => ({offered})().length > count", arg=len(before))
        (new,) = set(loading.page.evaluate(offered)) - before
        assert (folder / new).is_file() and "from_the_browser" in new
    finally:
        for path in folder.glob("test/from_the_browser*"):
            path.unlink()


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["classic nodes", "new nodes"])
def test_custom_settings_open_their_knobs_and_stay(open_tab, vue_nodes):
    tab = open_tab("erase-a-concept", **{"Comfy.VueNodes.Enabled": vue_nodes})
    tab.screenshot("faces-new" if vue_nodes else "faces")
    chosen = {"closed_form": "custom", "closed_form.preserve": 7, "tuning": "custom", "tuning.steps": 33}
    tab.set("TRCESettings", **chosen)
    tab.set("TRCEErase", mode="tuned")
    reload = "async () => { await app.loadGraphData(app.rootGraph.serialize()); }"
    sent = """async () => {
        const { output } = await app.graphToPrompt();
        return Object.values(output).find(node => node.class_type === 'TRCESettings').inputs;
    }"""
    before = tab.page.evaluate(sent)
    assert chosen.items() <= before.items() and before["resolution"] == 64
    tab.page.evaluate(reload)
    assert tab.page.evaluate(sent) == before
    controls = "() => app.rootGraph.nodes.find(n => n.type === 'TRCESettings').widgets.map(w => w.name)"
    assert "control_after_generate" not in tab.page.evaluate(controls)  # another seed would train again
    tab.page.wait_for_timeout(1000)
    tab.screenshot("custom-new" if vue_nodes else "custom")


def in_a_subgraph(kind, widget, value, output):
    """A graph with one node in a subgraph, whose widget is shown on the outside, and what it gives in PreviewAny."""
    inside, text, box = "8d4f30c2-0d0a-4f0e-9a55-6a3f3a5b7c11", "STRING", {"bounding": [0, 0, 120, 80]}
    node = {"id": 1, "type": kind, "pos": [200, 0], "size": [320, 300], "flags": {}, "order": 0, "mode": 0}
    node |= {"inputs": [{"name": widget, "type": "COMBO", "widget": {"name": widget}, "link": 1}]}
    node |= {"outputs": [{"name": "out", "type": text, "links": []} for _ in range(output + 1)]}
    node["outputs"][output]["links"] = [2]
    node |= {"properties": {}, "widgets_values": [value]}
    ends = [
        {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0, "type": "COMBO"},
        {"id": 2, "origin_id": 1, "origin_slot": output, "target_id": -20, "target_slot": 0, "type": text},
    ]
    uuid = "8d4f30c2-0d0a-4f0e-9a55-6a3f3a5b7c1"
    subgraph = {"id": inside, "version": 1, "revision": 0, "config": {}, "name": "A list", "widgets": [], "groups": []}
    subgraph |= {"state": {"lastGroupId": 0, "lastNodeId": 1, "lastLinkId": 2, "lastRerouteId": 0}}
    subgraph |= {"inputNode": {"id": -10, **box}, "outputNode": {"id": -20, **box}, "nodes": [node], "links": ends}
    subgraph |= {"inputs": [{"id": f"{uuid}2", "name": widget, "type": "COMBO", "linkIds": [1]}]}
    subgraph |= {"outputs": [{"id": f"{uuid}3", "name": "list", "type": text, "linkIds": [2]}]}
    outside = {"id": 2, "type": inside, "pos": [0, 0], "size": [320, 120], "flags": {}, "order": 0, "mode": 0}
    outside |= {"inputs": [{"name": widget, "type": "COMBO", "widget": {"name": widget}, "link": None}]}
    outside |= {"outputs": [{"name": "list", "type": text, "links": [3]}], "widgets_values": []}
    outside |= {"properties": {"proxyWidgets": [["1", widget]]}}
    show = {"id": 3, "type": "PreviewAny", "pos": [400, 0], "size": [400, 400], "flags": {}, "order": 1, "mode": 0}
    show |= {"inputs": [{"name": "source", "type": "*", "link": 3}], "outputs": [], "properties": {}}
    graph = {"last_node_id": 3, "last_link_id": 3, "nodes": [outside, show], "groups": [], "config": {}, "extra": {}}
    return graph | {"links": [[3, 2, 0, 3, 0, text]], "version": 0.4, "definitions": {"subgraphs": [subgraph]}}


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["classic nodes", "new nodes"])
def test_a_preset_is_chosen_on_the_outside_of_a_subgraph(open_tab, vue_nodes):
    tab = open_tab(**{"Comfy.VueNodes.Enabled": vue_nodes})
    tab.page.evaluate("graph => app.loadGraphData(graph)", in_a_subgraph("TRCEEraseConcepts", "preset", "none", 0))
    preset = "celebrity" if vue_nodes else "art style"
    choose = """preset => {
        const widget = app.rootGraph.nodes.find(n => n.subgraph).widgets.find(w => w.name === 'preset');
        widget.value = preset;
        widget.callback?.(preset);
    }"""
    tab.page.evaluate(choose, preset)
    tab.queue()
    tab.wait_for("execution_success")
    shown = "() => app.rootGraph.nodes.find(n => n.type === 'PreviewAny').widgets[0].value"
    tab.page.wait_for_function(f"({shown})()?.includes('->')")
    found = parse_concepts(tab.page.evaluate(shown))
    assert found == parse_concepts(ERASE_PRESETS[preset])


def test_the_blueprint_is_found_placed_and_run(open_tab):
    """From the search that a double click on the canvas opens to the two pictures."""
    tab = open_tab("erase-a-concept")
    page = tab.page
    page.evaluate("""() => {
        for (const node of [...app.rootGraph.nodes])
            if (node.type !== 'CheckpointLoaderSimple') app.rootGraph.remove(node);
    }""")
    search = page.get_by_role("dialog").locator("input").first
    for _ in range(20):  # a busy machine reads a double click as two single ones now and then
        page.locator("#graph-canvas").dblclick(position={"x": 900, "y": 300})
        with suppress(TimeoutError):
            search.wait_for(timeout=5000)
            break
    expect(search).to_be_visible()
    page.keyboard.type("Erase and Compare")
    expect(page.get_by_text("Subgraph Blueprints / TRCE").first).to_be_visible()
    tab.screenshot("blueprint-search")
    page.keyboard.press("Enter")
    page.wait_for_function("() => app.rootGraph.nodes.some(n => n.subgraph)")
    page.locator("#graph-canvas").click(position={"x": 900, "y": 300})  # puts it down
    page.evaluate("""() => {
        const [loader, box] = ['loader', 'box'].map(name =>
            app.rootGraph.nodes.find(n => name === 'box' ? n.subgraph : n.type === 'CheckpointLoaderSimple'));
        for (const [slot, name] of ['model', 'clip', 'vae'].entries())
            loader.connect(slot, box, box.inputs.findIndex(input => input.name === name));
        for (const [slot, name] of ['before', 'after'].entries()) {
            const show = LiteGraph.createNode('PreviewImage');
            show.pos = [box.pos[0] + box.size[0] + 60, 380 * slot];
            app.rootGraph.add(show);
            box.connect(box.outputs.findIndex(output => output.name === name), show, 0);
        }
        const values = { concepts: 'a cigarette -> a lollipop', keep: 'a pencil', prompt: 'a cigarette',
                         width: 64, height: 64, steps: 2, seed: 11 };
        for (const [name, value] of Object.entries(values))
            box.widgets.find(widget => widget.name === name).value = value;
    }""")
    missing = """() => {
        const inside = app.rootGraph.nodes.filter(n => n.subgraph).flatMap(n => n.subgraph.nodes);
        return [...app.rootGraph.nodes, ...inside].filter(n => n.has_errors).map(n => n.type);
    }"""
    assert page.evaluate(missing) == []
    expect(page.get_by_text("Missing Node Packs")).to_have_count(0)
    tab.queue()
    tab.wait_for("execution_success")
    drawn = (
        "() => app.rootGraph.nodes.filter(n => n.type === 'PreviewImage' && n.imgs?.[0]?.naturalWidth === 64).length"
    )
    page.wait_for_function(f"({drawn})() === 2")
    sent = page.evaluate("async () => (await app.graphToPrompt()).output")
    erase = next(node for node in sent.values() if node["class_type"] == "TRCEErase")
    assert erase["inputs"]["concepts"] == "a cigarette -> a lollipop"
    assert {node["inputs"]["seed"] for node in sent.values() if node["class_type"] == "KSampler"} == {11}
    tab.screenshot("blueprint")


def test_help_opens(open_tab):
    tab = open_tab("erase-a-concept")
    button = tab.page.get_by_test_id("info-button")
    select = """() => {
        app.canvas.deselectAll();
        app.canvas.selectNode(app.rootGraph.nodes.find(n => n.type === 'TRCEErase'));
    }"""
    for _ in range(10):  # right after a load the toolbox may come without the button
        tab.page.evaluate(select)
        tab.page.wait_for_timeout(500)
        if button.is_visible():
            break
    button.click()
    expect(tab.page.locator(".node-help-content")).to_contain_text("concepts")
    tab.screenshot("help")
