// Shows what the worker says, and tells it what to do.
const part = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
const device = new URLSearchParams(location.search).get("device") === "webgpu" ? "webgpu" : "wasm";
// Memory that both can see; serve.py sends the headers that browsers ask for.
const stopped = new Int32Array(self.crossOriginIsolated ? new SharedArrayBuffer(4) : new ArrayBuffer(4));
let isReady = false;
let isBusy = false;

function megabytes(bytes) {
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`;
}

function say(text) {
  part("status").textContent = text;
}

function complain(text) {
  part("problem").textContent = text;
  part("problem").hidden = false;
}

function refresh() {
  part("start").disabled = !isReady || isBusy;
  part("stop").disabled = !isBusy || !self.crossOriginIsolated;
}

const told = {
  progress({ loaded, total }) {
    part("progress").value = total ? loaded / total : 0;
    say(`Loading: ${megabytes(loaded)} of ${megabytes(total)}`);
    part("size").textContent = megabytes(total);
  },
  ready({ chat }) {
    isReady = true;
    part("progress").hidden = true;
    part("chat-choice").hidden = !chat;
    part("chat").checked = chat;
    say("The model is ready.");
  },
  text({ text }) {
    part("answer").textContent += text;
  },
  speed({ count, rate }) {
    const speed = rate === null ? "" : `, ${rate.toFixed(1)} tokens per second`;
    part("speed").textContent = `${count} ${count === 1 ? "token" : "tokens"}${speed}`;
  },
  done() {
    isBusy = false;
    say("The answer is complete.");
  },
  problem({ text, during }) {
    isBusy = false;
    complain(text);
    if (during === "load") part("progress").hidden = true;
    say(during === "load" ? "The model is not loaded." : "There is no complete answer.");
  },
};

function start() {
  isBusy = true;
  stopped[0] = 0;
  part("problem").hidden = true;
  part("answer").textContent = "";
  part("speed").textContent = "";
  say("The model is answering …");
  worker.postMessage({
    kind: "answer",
    prompt: part("prompt").value,
    chat: part("chat").checked,
    tokens: Number(part("tokens").value),
  });
  refresh();
}

async function describe() {
  const response = await fetch("model/config.json");
  if (!response.ok) {
    throw new Error(`There is no model at ${response.url}. Start serve.py with the folder “web” of a variant.`);
  }
  const config = await response.json();
  part("layers").textContent = config.num_hidden_layers;
  part("precision").textContent = config["transformers.js_config"].dtype;
}

worker.addEventListener("message", ({ data }) => {
  told[data.kind](data);
  refresh();
});
worker.addEventListener("error", (event) => {
  event.preventDefault();
  told.problem({ text: `The page's worker failed. ${event.message ?? ""}`, during: isReady ? "answer" : "load" });
  refresh();
});
part("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (isReady && !isBusy) start();
});
part("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) part("form").requestSubmit();
});
part("stop").addEventListener("click", () => Atomics.store(stopped, 0, 1));
part("device").value = device;
part("device").addEventListener("change", ({ target }) => {
  location.search = target.value === "webgpu" ? "?device=webgpu" : "";
});

try {
  await describe();
  worker.postMessage({ kind: "load", device, stop: stopped });
} catch (error) {
  told.problem({ text: error.message, during: "load" });
}
