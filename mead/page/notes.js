// What would be noted on a form is said at its prompt, as one types: words that the weights have not learned,
// and how much of the text is read.

import { ask } from "./api.js";
import { $, say } from "./dom.js";
import { written } from "./forms.js";
import { isLocked } from "./key.js";

const AFTER = 400; // milliseconds without a change

export function watch(model) {
  let soon;
  model.element.addEventListener("input", () => {
    clearTimeout(soon);
    const mine = (soon = setTimeout(async () => {
      const { notes = [], tokens = {}, most_tokens: most, problem = "" } = await about(model);
      if (mine !== soon) return; // a later change makes another
      say($(".note", model.element), [...notes, problem].filter(Boolean).join("\n"));
      say($(".tokens", model.element), "prompt" in tokens ? `${tokens.prompt} of ${most} tokens` : "");
    }, AFTER));
  });
}

async function about(model) {
  const body = written(model.element);
  for (const [name, value] of [...body]) if (value.name) body.set(name, new File([], value.name)); // that there is one will do
  if (!body.has("prompt") || isLocked()) return {};
  try {
    return await ask(`${model.path}/notes`, { method: "POST", body });
  } catch ({ status, message }) {
    return status === 422 && message.includes("tokens") ? { problem: message } : {}; // what else is wrong is said when the form is sent
  }
}
