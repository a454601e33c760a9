"""The table of all formats. Their code is imported only on demand, because some need packages of an extra."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name

from converters.format import Format
from seap_export.common.toml_file import either
from seap_export.errors import ArtifactError, UsageError


@dataclass(frozen=True)
class Row:
    """An entry of the table: what is known of a format without importing its code.

    Attributes:
        class_path: Where the class of the format is, as MODULE:CLASS.
        title: Name of the format in texts, such as LiteRT-LM.
        marker: A file that every folder of this format has, and others have hardly ever.
        usage: How to generate text with a folder, given FOLDER, as a block of Markdown.
        has_options: Whether it takes the options of graphs; see `FormOptions`.
        code: Python files of the format's package that are copied into its folders, each with the key in config.json
            that names it.
    """

    class_path: str
    title: str
    marker: str
    usage: str
    has_options: bool = False
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """The package that holds the format's class, such as `converters.gguf`."""
        return self.class_path.partition(":")[0].rpartition(".")[0]


#: Matches the bits of a precision: the first number in its name.
_BITS = re.compile(r"\d+")
FORMATS: Mapping[str, Row] = {
    "hf": Row(
        "converters.hf.format:HfFormat",
        "safetensors",
        "config.json",
        """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
inputs = tokenizer("The sun is", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=16)[0]))
```
""",
    ),
    "onnx": Row(
        "converters.onnx.format:OnnxFormat",
        "ONNX",
        "genai_config.json",
        """\
```python
from seap_export.runtime import Generator

print(Generator("FOLDER").generate("The sun is", 16))
```
""",
        has_options=True,
    ),
    "gguf": Row(
        "converters.gguf.format:GgufFormat",
        "GGUF",
        "model.gguf",
        """\
```sh
llama-cli -m FOLDER/model.gguf -p "The sun is" -n 16
```
""",
    ),
    "web": Row(
        "converters.web.format:WebFormat",
        "transformers.js",
        "onnx",
        """\
```js
import { env, pipeline } from "@huggingface/transformers";

env.localModelPath = ".";
const generator = await pipeline("text-generation", "FOLDER");
console.log(await generator("The sun is", { max_new_tokens: 16 }));
```
""",
    ),
    "mlx": Row(
        "converters.mlx.format:MlxFormat",
        "MLX",
        "modeling_mlx.py",
        """\
```sh
mlx_lm.generate --model FOLDER --trust-remote-code --prompt "The sun is" --max-tokens 16
```
""",
        code={"modeling_mlx.py": "model_file"},
    ),
    "litert": Row(
        "converters.litert.format:LitertFormat",
        "LiteRT-LM",
        "model.litertlm",
        """\
```sh
litert-lm run FOLDER/model.litertlm --cache memory --prompt "The sun is"
```
""",
    ),
    "executorch": Row(
        "converters.executorch.format:ExecutorchFormat",
        "ExecuTorch",
        "model.pte",
        """\
```python
import executorch.runtime  # first of all
import executorch.extension.llm.custom_ops.custom_ops
import executorch.kernels.quantized
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

runner = TextLLMRunner("FOLDER/model.pte", "FOLDER/tokenizer.json")
runner.generate("The sun is", GenerationConfig(max_new_tokens=16))
```
""",
    ),
    "openvino": Row(
        "converters.openvino.format:OpenvinoFormat",
        "OpenVINO",
        "openvino_model.xml",
        """\
```python
import openvino_genai

pipeline = openvino_genai.LLMPipeline("FOLDER", "CPU", ATTENTION_BACKEND="SDPA")
print(pipeline.generate("The sun is", max_new_tokens=16))
```
""",
    ),
}
#: What `--format` writes beside the model folder, which the others are made from.
WRITTEN = tuple(name for name in FORMATS if name != "hf")


def row_of(format: Format) -> Row:
    return FORMATS[format.name]


def format_class(name: str) -> type[Format]:
    """Imports the class of the format that has this name in `FORMATS`."""
    resolved: type[Format] = resolve_name(FORMATS[name].class_path)
    return resolved


def parse_format(text: str) -> tuple[type[Format], str | None]:
    """The format's class, and the precision or None, that `NAME:PRECISION` or `NAME` stands for.

    Raises:
        UsageError: There is no such format, or it has no such precision.
    """
    name, colon, precision = text.partition(":")
    if name not in FORMATS:
        raise UsageError(f"--format {text}: unknown format '{name}'; use {either(FORMATS)}")
    format = format_class(name)
    if not colon:
        return format, None
    if not format.has_precision(precision):
        raise UsageError(f"--format {text}: {name} has no precision '{precision}'; use {either(format.known())}")
    return format, precision


def alike(name: str, precision: str) -> str | None:
    """The format with its first precision of as many bits, such as `gguf:q4_0` for `gguf` and `int4`; None: none."""
    bits = _BITS.findall(precision)[:1]
    same = (other for other in format_class(name).precisions if _BITS.findall(other)[:1] == bits)
    return next((f"{name}:{other}" for other in same), None)


def format_name(folder: str) -> str:
    """The format that a folder's name begins with, as `named_folders` names it: `gguf` of `gguf-q8_0`."""
    return folder.partition("-")[0]


def read_format(folder: Path) -> Format:
    """The format of a folder that was named by `named_folders`.

    Raises:
        ArtifactError: Its name is not that of a format, or its files do not say which precision they have.
    """
    name = format_name(folder.name)
    if name not in FORMATS:
        raise ArtifactError(f"{folder}: not a folder of a known format; known are {', '.join(FORMATS)}")
    return format_class(name).read(folder)
