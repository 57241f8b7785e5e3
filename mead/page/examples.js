// Prompts that work with these weights, to click.

import { button, changed, make } from "./dom.js";

export function examples(model) {
  const use = (prompt) => {
    const input = model.element.elements.prompt;
    input.value = prompt;
    changed(input);
    input.focus();
  };
  const chips = model.examples.map((prompt) => button(prompt, () => use(prompt), { dataset: { example: "" } }));
  return make("div", { className: "examples", role: "group", ariaLabel: "Examples", hidden: !chips.length }, ...chips);
}
