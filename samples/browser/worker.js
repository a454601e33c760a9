// Loads the model and answers prompts, beside the page, which stays responsive.
//
// Where the library comes from: `node_modules`, which serve.py shows under this address. To use the CDN instead, take
// "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.1" for LIBRARY and null for RUNTIME.
const LIBRARY = "/node_modules/@huggingface/transformers/dist/transformers.min.js";
const RUNTIME = "/node_modules/onnxruntime-web/dist/";
const MODEL = "model"; // the address of the model's folder on this server

let library;
let pipe;
let stopped; // shared with the page: a computing worker hears no messages

/** What went wrong, in words; details of the library follow. */
function words(error, what) {
  const text = String(error?.message ?? error);
  // WebAssembly leaves out the name of the node, "more_tokens_than_the_model_has_positions", which makes a shape of [0]
  if (/more_tokens_than|requested shape:\{0\}/.test(text)) return "The prompt and its answer are longer than the model's context.";
  if (/memory|allocation|bad_alloc|out of bounds/i.test(text)) {
    return `There is too little memory for this model. Try a smaller precision, such as q4. (${text})`;
  }
  if (/Failed to fetch|NetworkError|Could not locate|404/i.test(text)) {
    return `${what} Is serve.py still running, and does its folder hold the model? (${text})`;
  }
  return `${what} (${text})`;
}

async function openLibrary() {
  try {
    library = await import(LIBRARY);
  } catch (error) {
    const remedy = "Run “npm install @huggingface/transformers@4.3 --ignore-scripts” beside serve.py's --modules, or";
    throw new Error(`transformers.js was not found. ${remedy} use the CDN, as worker.js says.`, { cause: error });
  }
  const { env } = library;
  Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: "/" });
  env.useBrowserCache = false; // the server is near, and another variant may have the same address
  if (RUNTIME) env.backends.onnx.wasm.wasmPaths = RUNTIME;
}

async function load({ device, stop }) {
  stopped = stop;
  await openLibrary();
  if (device === "webgpu" && !navigator.gpu) {
    throw new Error("This browser has no WebGPU. Choose the processor.");
  }
  try {
    pipe = await library.pipeline("text-generation", MODEL, {
      device,
      progress_callback: (info) => {
        if (info.status !== "progress_total") return;
        postMessage({ kind: "progress", loaded: info.loaded, total: info.total });
      },
    });
  } catch (error) {
    throw new Error(words(error, "The model does not load."), { cause: error });
  }
  postMessage({ kind: "ready", chat: Boolean(pipe.tokenizer.chat_template) });
}

/** Ends an answer once the page asks for it. */
function stopping() {
  const criteria = new library.InterruptableStoppingCriteria();
  Object.defineProperty(criteria, "interrupted", { get: () => Atomics.load(stopped, 0) === 1 });
  return criteria;
}

async function answer({ prompt, chat, tokens }) {
  let count = 0;
  let first;
  const streamer = new library.TextStreamer(pipe.tokenizer, {
    skip_prompt: true,
    callback_function: (text) => postMessage({ kind: "text", text }),
    token_callback_function: () => {
      count += 1;
      first ??= performance.now();
      const seconds = (performance.now() - first) / 1000;
      postMessage({ kind: "speed", count, rate: count > 1 ? (count - 1) / seconds : null });
    },
  });
  const input = chat ? [{ role: "user", content: prompt }] : prompt;
  try {
    await pipe(input, { max_new_tokens: tokens, do_sample: false, streamer, stopping_criteria: stopping() });
  } catch (error) {
    throw new Error(words(error, "The model gave no answer."), { cause: error });
  }
  postMessage({ kind: "done", count });
}

addEventListener("message", async ({ data }) => {
  try {
    if (data.kind === "load") await load(data);
    if (data.kind === "answer") await answer(data);
  } catch (error) {
    postMessage({ kind: "problem", text: error.message, during: data.kind });
  }
});
