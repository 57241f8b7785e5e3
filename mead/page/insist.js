// What the server gave no answer to is done again when it is back, as the page promises.

import { $ } from "./dom.js";

const MOST_PAUSE = 10_000; // milliseconds

let lost = false; // whether the page says that the server does not answer
let waiting = 0;

addEventListener("health", ({ detail }) => { lost = !detail.ok && !detail.reached; });

export const isWaiting = () => waiting > 0;

// Calls until there is an answer, or the person withdraws.
export async function insist(act) {
  for (let tries = 0; ; tries++) {
    try {
      return await act();
    } catch (error) {
      const away = error.status === 0 || (error.status === 503 && (lost || tries > 0));
      if (!away) throw error;
    }
    await news(Math.min(1000 * tries, MOST_PAUSE));
  }
}

// Until the service has said how it is.
function news(pause) {
  show(1);
  const hand = new AbortController();
  return new Promise((done, failed) => {
    addEventListener("health", ({ detail }) => { if (detail.ok || detail.reached) setTimeout(done, pause); }, { signal: hand.signal });
    $("#withdraw").addEventListener("click", () => failed(new Error("Not sent.")), { signal: hand.signal });
  }).finally(() => { hand.abort(); show(-1); });
}

function show(more) {
  waiting += more;
  $("#waits").hidden = !waiting;
}
