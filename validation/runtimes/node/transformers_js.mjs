// Runs a model in transformers.js for `validation.runtimes.node.transformers_js`.
//
//   node transformers_js.mjs PACKAGE
//
// PACKAGE is the folder of @huggingface/transformers. Standard input has one request a line, standard output one answer
// a line, both JSON; { error } is an answer, too. Tensors are files of little-endian float32 numbers.
//
//   { do: "open", folder, backend: "node" | "wasm", threads }   -> { versions }
//   { do: "prefill", ids, lengths, file }                       -> { dims }: logits, of a batch padded on the right
//   { do: "append", ids, file }                                 -> { dims }: more tokens, after the cache
//   { do: "states" }                                            -> { names }: what the graph gives besides logits
//   { do: "state", name, file }                                 -> { dims }: [rows, ...]
//   { do: "timed", ids, steps }                                 -> { seconds }: of the prompt, and of each token after it
//   { do: "generate", prompts, tokens }                         -> { texts }: what the pipeline says, greedily
//   { do: "openTexts", folder }                                 -> {}: the tokenizer alone, for the next three
//   { do: "encode", text, special }                             -> { value }: ids
//   { do: "decode", ids }                                       -> { value }: the text without special tokens
//   { do: "render", messages, tools, prompts }                  -> { value }: the text by the chat template
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

console.log = console.error; // standard output has answers alone
const require = createRequire(join(process.argv[2], "package.json"));

let library;
let pipe;
let inputs;
let outputs;

/** Makes the library use ONNX Runtime Web, which it takes from here. */
function useWasm(threads) {
  const main = require.resolve("onnxruntime-web");
  const runtime = require(main);
  runtime.env.wasm.numThreads = threads;
  runtime.env.wasm.wasmPaths = pathToFileURL(dirname(main) + "/").href;
  globalThis[Symbol.for("onnxruntime")] = runtime;
}

function openLibrary() {
  library = require(require.resolve("@huggingface/transformers"));
  Object.assign(library.env, { allowRemoteModels: false, allowLocalModels: true, useFSCache: false });
  return library;
}

/** Session options: ONNX Runtime Web reads no data files of its own accord. */
async function sessionOptions(folder, backend, threads) {
  if (backend === "node") return { intraOpNumThreads: threads, interOpNumThreads: 1 };
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
  const [[name, chunks]] = Object.entries(config["transformers.js_config"].use_external_data_format);
  const files = Array.from({ length: chunks }, (_, chunk) => `${name}_data${chunk ? `_${chunk}` : ""}`);
  const data = await Promise.all(files.map((file) => readFile(join(folder, "onnx", file))));
  return {
    executionProviders: ["wasm"],
    externalData: files.map((path, index) => ({ path, data: data[index] })),
  };
}

function int64(rows) {
  const flat = BigInt64Array.from(rows.flat().map(BigInt));
  return new library.Tensor("int64", flat, [rows.length, rows[0].length]);
}

async function write(file, tensor) {
  const { data } = tensor.to("float32");
  await writeFile(file, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
}

/** The most likely token after the last one. */
function next({ data, dims }) {
  const row = data.subarray(data.length - dims.at(-1));
  let best = 0;
  for (let token = 1; token < row.length; token++) if (row[token] > row[best]) best = token;
  return best;
}

/** Appends one token to each row: the library's own update, which takes the cache from the outputs. */
function advance(tokens) {
  inputs = pipe.model._update_model_kwargs_for_generation({
    generated_input_ids: tokens.map((token) => [BigInt(token)]),
    outputs,
    model_inputs: inputs,
    is_encoder_decoder: false,
  });
}

async function forward(file) {
  outputs = await pipe.model(inputs);
  const { logits } = outputs;
  await write(file, logits);
  return { dims: logits.dims };
}

const requests = {
  async open({ folder, backend, threads }) {
    if (backend === "wasm") useWasm(threads);
    const { env, pipeline } = openLibrary();
    pipe = await pipeline("text-generation", folder, { // absolute, so not taken for the name of a model
      device: backend === "wasm" ? "auto" : "cpu",
      session_options: await sessionOptions(folder, backend, threads),
    });
    return { versions: { "transformers.js": env.version, ...env.backends.onnx.versions } };
  },

  async prefill({ ids, lengths, file }) {
    const mask = ids.map((row, index) => row.map((_, place) => Number(place < lengths[index])));
    inputs = { input_ids: int64(ids), attention_mask: int64(mask) };
    return forward(file);
  },

  async append({ ids, file }) {
    advance(ids.map((row) => row[0]));
    const further = ids[0].length - 1;
    if (further > 0) {
      inputs.input_ids = int64(ids);
      const ones = library.ones([ids.length, further]);
      inputs.attention_mask = library.cat([inputs.attention_mask, ones], 1);
    }
    return forward(file);
  },

  async states() {
    return { names: Object.keys(outputs).filter((name) => name !== "logits") };
  },

  async state({ name, file }) {
    await write(file, outputs[name]);
    return { dims: outputs[name].dims };
  },

  async timed({ ids, steps }) {
    inputs = {
      input_ids: int64(ids),
      attention_mask: int64(ids.map((row) => row.map(() => 1))),
      num_logits_to_keep: new library.Tensor("int64", [1n], []), // as the library does while it generates
    };
    const seconds = [];
    for (let step = 0; step <= steps; step++) {
      const begin = performance.now();
      if (step) advance([next(outputs.logits)]);
      outputs = await pipe.model(inputs);
      seconds.push((performance.now() - begin) / 1000);
    }
    return { seconds };
  },

  async generate({ prompts, tokens }) {
    const options = { max_new_tokens: tokens, do_sample: false, return_full_text: false };
    const texts = [];
    for (const prompt of prompts) texts.push((await pipe(prompt, options))[0].generated_text);
    return { texts };
  },

  async openTexts({ folder }) {
    pipe = { tokenizer: await openLibrary().AutoTokenizer.from_pretrained(folder) };
    return {};
  },

  async decode({ ids }) {
    const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
    return { value: pipe.tokenizer.decode(ids, options) };
  },

  async render({ messages, tools, prompts }) {
    const options = { tokenize: false, add_generation_prompt: prompts, tools: tools.length ? tools : null };
    return { value: pipe.tokenizer.apply_chat_template(messages, options) };
  },

  async encode({ text, special }) {
    return { value: pipe.tokenizer.encode(text, { add_special_tokens: special }) };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = await requests[request.do](request);
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
