// Live: where an edit is made in one pass, a change of the form makes it at once.

import { $, make } from "./dom.js";
import { chosen, running } from "./jobs.js";
import { formOf, replace } from "./versions.js";

const AFTER = 600; // milliseconds without a change

export function watch(model, send) {
  const { method, sliders } = model.element.elements;
  if (!method && !sliders) return;
  const box = make("input", { type: "checkbox" });
  const label = make("label", { className: "check live", title: "Each change makes the edit again" }, box, "Live");
  $(".quick", model.element).append(label);
  let soon;
  let last = null; // what was made live
  const change = async () => {
    const before = chosen();
    await send(model);
    if (chosen() === before) return; // it was refused
    if (before && formOf(before) === last) replace(last); // of a row of changes, the last one counts
    last = formOf(chosen());
  };
  const show = () => { label.hidden = !isQuick(model.element); };
  model.element.addEventListener("input", (event) => {
    show();
    if (event.target === box || label.hidden || !box.checked) return;
    clearTimeout(soon);
    soon = setTimeout(function again() {
      const job = chosen();
      if (job && running(job)) soon = setTimeout(again, AFTER);
      else if (model.required.every((name) => model.element.elements[name].value)) change();
    }, AFTER);
  });
  show();
}

// Whether nothing is optimised: with a method of one pass, or with sliders alone.
function isQuick({ elements: { method, sliders, prompt } }) {
  return ["global", "mapper"].includes(method?.value) || Boolean(sliders?.value && !prompt.value.trim());
}
