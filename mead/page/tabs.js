// The tabs: one for each model.

import { $, button, make } from "./dom.js";
import { models } from "./service.js";

export function makeTabs() {
  models.forEach((model, place) => {
    model.panel = make("div", { id: `panel-${model.path}`, role: "tabpanel" });
    model.panel.setAttribute("aria-labelledby", `tab-${model.path}`);
    model.tab = button(model.form.title, () => open(model), { role: "tab", id: `tab-${model.path}` });
    model.tab.setAttribute("aria-controls", model.panel.id);
    model.tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const other = models.at((place + step) % models.length);
      open(other);
      other.tab.focus();
    });
  });
  $("#tabs").replaceChildren(...models.map(({ tab }) => tab));
  $("#panels").replaceChildren(...models.map(({ panel }) => panel));
  open(models[0]);
}

export function open(model) {
  for (const one of models) {
    one.tab.ariaSelected = String(one === model);
    one.tab.tabIndex = one === model ? 0 : -1;
    one.panel.hidden = one !== model;
  }
  dispatchEvent(new CustomEvent("tab", { detail: model }));
}

export const current = () => models.find(({ panel }) => !panel.hidden);
