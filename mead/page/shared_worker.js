// One follower for all windows of a browser.

import { Follower } from "./follower.js";

const follower = new Follower((port, message) => port.postMessage(message));

addEventListener("connect", ({ ports: [port] }) => {
  port.onmessage = ({ data }) => (data.bye ? follower.remove(port) : follower.update(port, data));
});
