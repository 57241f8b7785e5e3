// A field that takes names which the weights set offers, with a number each, as in "age:3 | smile:-1". A field that
// takes one name has its choices in its schema.

import { words } from "./controls.js";
import { changed, make } from "./dom.js";
import { bindSlider } from "./ranges.js";

// The choices of a field as [name, [least, most] or null]; null if the service lists none for it.
export function choicesOf(model, name) {
  const choices = model.choices?.[name];
  return choices ? Object.entries(choices).map(([key, range]) => [key, range && [range.minimum, range.maximum]]) : null;
}

// Shows a slider for each choice in place of the text: its input stays, and is what is sent.
export function sliders(input, choices) {
  const numbers = new Map(choices.map(([name]) => [name, make("input", { type: "number", step: "any", placeholder: "0", ariaLabel: `${words(name)}, a number` })]));
  let writing = false;
  for (const number of numbers.values()) {
    number.addEventListener("input", () => {
      if (writing) return;
      const given = [...numbers].filter(([, one]) => Number(one.value));
      writing = true;
      input.value = given.map(([name, one]) => `${name}:${Number(one.value)}`).join(" | ");
      changed(input);
      writing = false;
    });
  }
  input.addEventListener("input", () => { // as it was filled in: for a job of before
    if (writing) return;
    writing = true;
    const given = new Map(input.value.split("|").map((part) => [part.slice(0, part.lastIndexOf(":")).trim(), part.slice(part.lastIndexOf(":") + 1)]));
    for (const [name, number] of numbers) { number.value = given.get(name)?.trim() ?? ""; changed(number); }
    writing = false;
  });
  input.hidden = true;
  const row = ([name, range]) => make("div", { className: "named" }, make("span", { textContent: words(name) }), bindSlider(numbers.get(name), ...(range ?? [-5, 5]), 0, words(name)));
  return make("div", { className: "sliders" }, ...choices.map(row), input);
}
