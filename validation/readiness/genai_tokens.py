"""Lets ONNX Runtime GenAI continue a prompt; imports only what its environment has.

    python genai_tokens.py FOLDER PROMPT NEW_TOKENS

prints as JSON the device and the tokens. Which provider it is stands in FOLDER/genai_config.json.
"""

from __future__ import annotations

import json
import sys


def _main(folder: str, prompt: str, new_tokens: int) -> None:
    import onnxruntime
    import onnxruntime_genai as og  # in an environment of its own

    onnxruntime.preload_dlls()  # finds CUDA's libraries among Python's packages, which GenAI does not
    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    tokens = [int(token) for token in tokenizer.encode(prompt)]
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=len(tokens) + new_tokens)
    generator = og.Generator(model, parameters)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    generated = [int(token) for token in generator.get_sequence(0)][len(tokens) :]
    text = tokenizer.decode(generated)
    answer = {"version": og.__version__, "device": str(model.device_type), "prompt": tokens, "generated": generated}
    print(json.dumps({**answer, "text": text}))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
