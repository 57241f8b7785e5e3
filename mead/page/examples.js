// Prompts that work with these weights, with what became of them: a click sends the form with one.

import { changed, make } from "./dom.js";
import { service } from "./service.js";

export function examples(model) {
  const use = (prompt) => {
    const input = model.element.elements.prompt;
    input.value = prompt;
    changed(input);
    input.focus();
    model.element.requestSubmit();
  };
  const chip = (prompt) => {
    const file = service.thumbnails[prompt];
    const picture = file ? make("img", { src: `page/${file}`, alt: "", width: 40, height: 40 }) : null;
    return make("button", { type: "button", dataset: { example: "" }, onclick: () => use(prompt) }, picture, make("span", { textContent: prompt }));
  };
  return make("div", { className: "examples", role: "group", ariaLabel: "Examples", hidden: !model.examples.length }, ...model.examples.map(chip));
}
