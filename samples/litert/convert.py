"""Converts a variant for LiteRT-LM: python convert.py pruned/maths-0.2/hf phone

Writes phone/model.litertlm: prompts of 16 and 128 tokens and single steps over one cache, the tokenizer and the chat
template. Needs `pip install litert-torch litert-lm`.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import sys
import tempfile
import types
from pathlib import Path

#: LiteRT-LM gives the content of a turn as a list of parts, which few templates take.
AS_TEXT = (
    "{% set ns = namespace(turns=[]) %}{% for message in messages %}{% if message.content is string %}"
    "{% set ns.turns = ns.turns + [message] %}{% else %}{% set ns.turns = ns.turns + "
    "[dict(message, content=message.content | map(attribute='text') | join)] %}{% endif %}{% endfor %}"
    "{% set messages = ns.turns %}"
)


def main() -> None:
    """Read the arguments and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_folder", type=Path, help="hf/ of a variant")
    parser.add_argument("out_folder", type=Path)
    parser.add_argument("--context", type=int, default=1024, help="tokens that the cache holds; default 1024")
    parser.add_argument("--fp32", action="store_true", help="keep the weights instead of rounding them to int8")
    given = parser.parse_args()
    convert(given.model_folder, given.out_folder, given.context, "" if given.fp32 else "dynamic_wi8_afp32")


def convert(model_folder: Path, out_folder: Path, context: int, recipe: str) -> None:
    """Writes model.litertlm into `out_folder`, for `context` tokens, quantised by a recipe of litert-torch."""
    lend_schema()
    from litert_torch.generative.export_hf import export

    with tempfile.TemporaryDirectory() as scratch:
        template, source = Path(scratch) / "chat_template.jinja", chat_template(model_folder)
        if source is not None:
            template.write_text(AS_TEXT + source, "utf-8")
        export.export(
            str(model_folder),
            str(out_folder),
            trust_remote_code=True,
            prefill_lengths=[16, 128],
            cache_length=context,
            quantization_recipe=recipe,
            litert_lm_model_type_override="generic",
            use_jinja_template=source is not None,
            jinja_chat_template_override=str(template) if source is not None else None,
        )


def chat_template(model_folder: Path) -> str | None:
    """The model's chat template; None: it has none."""
    file = model_folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    found = json.loads((model_folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
    return found if isinstance(found, str) else None


def lend_schema() -> None:
    """Gives litert-torch 0.10 a module that it takes from TensorFlow without requiring TensorFlow."""
    from ai_edge_litert import schema_py_generated

    for name in ("tensorflow", "tensorflow.lite", "tensorflow.lite.python"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules.setdefault(name, module)
    sys.modules["tensorflow.lite.python.schema_py_generated"] = schema_py_generated


if __name__ == "__main__":
    main()
