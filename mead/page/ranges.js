// A slider beside a number that may be written exactly.

import { changed, make } from "./dom.js";

// input: the number that is sent; usual: its value while it is empty.
export function bindSlider(input, least, most, usual, label, step = 10 ** Math.round(Math.log10((most - least) / 100))) {
  const slider = make("input", { type: "range", min: least, max: most, step, ariaLabel: label });
  const show = () => {
    slider.value = input.value === "" ? usual : input.value;
    slider.disabled = input.disabled;
  };
  slider.addEventListener("input", () => { input.value = slider.value; changed(input); });
  input.addEventListener("input", show);
  show();
  return make("div", { className: "slider" }, slider, input);
}
