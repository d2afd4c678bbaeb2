// A combo with `fills` and `lists` in its options writes the chosen list into the text widget that `fills` names.
// What somebody wrote there stays: a list only takes the place of another list, else it goes below.
import { app } from "../../scripts/app.js";

function fill(text, lists, chosen) {
  const untouched = !text.trim() || Object.values(lists).some((list) => list.trim() === text.trim());
  if (untouched) return chosen;
  return text.includes(chosen) ? text : `${text.trimEnd()}\n${chosen}`;
}

app.registerExtension({
  name: "trce.presets",
  nodeCreated(node) {
    const declared = node.constructor.nodeData?.input?.required ?? {}; // a widget's options do not carry what is ours
    for (const combo of node.widgets ?? []) {
      const { fills, lists } = declared[combo.name]?.[1] ?? {};
      const text = node.widgets.find((widget) => widget.name === fills);
      if (!text || !lists) continue;
      const callback = combo.callback;
      combo.callback = function (value, ...rest) {
        if (lists[value]) {
          text.value = fill(text.value, lists, lists[value]);
          text.callback?.(text.value);
        }
        return callback?.call(this, value, ...rest);
      };
    }
  },
});
