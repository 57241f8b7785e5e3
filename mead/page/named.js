// Fields that take names which the weights set offers: sliders with a number each, as in "age:3 | smile:-1", or
// one name.

import { words } from "./controls.js";
import { changed, make } from "./dom.js";
import { bindSlider } from "./ranges.js";

// The choices of a field as [name, [least, most] or null]; null if the service lists none for it.
export function choicesOf(model, name) {
  const choices = model.choices?.[name];
  if (!choices) return null;
  const pairs = Array.isArray(choices) ? choices.map((one) => [one.name ?? one, one]) : Object.entries(choices);
  return pairs.map(([key, range]) => [key, ends(range)]);
}

function ends(range) {
  if (Array.isArray(range)) return range;
  const least = range?.minimum ?? range?.least;
  return least === undefined ? null : [least, range.maximum ?? range.most];
}

// Shows choices in place of a text: its input stays, and is what is sent.
export function named(input, choices) {
  return choices.some(([, range]) => range) ? sliders(input, choices) : selection(input, choices);
}

function selection(input, choices) {
  const select = make("select", { ariaLabel: "Choose one" }, make("option", { value: "", textContent: "none" }), ...choices.map(([name]) => make("option", { value: name, textContent: words(name) })));
  select.addEventListener("input", (event) => { event.stopPropagation(); input.value = select.value; changed(input); });
  input.addEventListener("input", () => { select.value = input.value; });
  input.hidden = true;
  return make("div", {}, select, input);
}

function sliders(input, choices) {
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
