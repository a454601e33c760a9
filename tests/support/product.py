"""What many tests take from the product: where a module moves, this file follows, and they need not."""

from __future__ import annotations

from converters.executorch.stored_program import PROGRAM as EXECUTORCH_PROGRAM
from converters.gguf.format import GgufFormat
from converters.litert.bundle import BUNDLE as LITERT_BUNDLE
from converters.onnx.folder import convert_folder
from converters.onnx.form import Logits, OnnxForm
from converters.onnx.format import OnnxFormat
from converters.onnx.genai_config import genai_config
from converters.onnx.onnx_writer import write_onnx
from converters.onnx.precision import WAYS, Precision, PrecisionName, choose_precision
from converters.onnx.weights.quantize import dequantize, quantize
from converters.openvino.ir_file import MODEL_FILE as OPENVINO_MODEL
from seap_export.common.providers import DialectName
from seap_export.model.families.files import families, refused_models
from seap_export.model.families.names import CONVOLUTION, DELTA, MAMBA, Projection
from seap_export.model.families.names import PROJECTIONS as ALL_PROJECTIONS
from seap_export.model.families.sublayers import Attention, Mlp
from seap_export.model.layers.batches import Batch, length_buckets
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.hidden_states import HiddenStates, SublayerPass
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.stock_experts import ExpertModules
from seap_export.model.layers.sublayers.experts import router_weights
from seap_export.model.layers.sublayers.rotary import attention_factor, rotary_tables
from seap_export.model.sources.config import portable_config, read_spec
from seap_export.model.sources.gguf.header import read_header
from seap_export.model.sources.open import open_source
from seap_export.model.sources.source import Source
from seap_export.model.sources.stored import PlainReader, StoredForm
from seap_export.model.sources.tensor_writer import SafetensorsWriter
from seap_export.model.sources.tokenizer import note_job
from seap_export.model.sources.weights import SafetensorsReader
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.budget.candidates import CANDIDATES_FOLDER
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.folder.manifest import read_manifest
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.gate.parity import prompts_of
from seap_export.pipeline.progress import Silent
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.mixtures import MixtureSpec
from seap_export.pipeline.request.options import CalibrationSettings
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.joint.quality import QualityStep
from seap_export.pipeline.steps.joint.validation import ValidationStep
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.single.variant import PlanStep, ShrinkStep
from seap_export.pipeline.steps.step import PathStep
from seap_export.pipeline.targets.candidate import Candidate, CandidateFigures, Point, Times, ways
from seap_export.pipeline.targets.first_token import FirstToken, PromptTime
from seap_export.pipeline.targets.frontier import Frontier
from seap_export.pipeline.targets.guess import USUAL, Guess
from seap_export.pipeline.targets.targets import Targets
from seap_export.pipeline.texts.general_text import GENERAL_TEXT, MOST_TEXTS
from seap_export.pruning.activations.calibrate import collect_statistics
from seap_export.pruning.activations.statistics import Calibration, CalibrationRecord, read_tokens
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.cost import BUDGETS, CostModel
from seap_export.pruning.plan.make import plan_variant, rank_layers
from seap_export.pruning.plan.plan import LayerPlan, Plan, read_plan
from seap_export.pruning.plan.recipes import open_recipe
from seap_export.pruning.plan.settings import COMPENSATIONS, Compensation, PlanSettings
from seap_export.pruning.plan.sparsity import EVEN, Sparsity
from seap_export.pruning.plan.sublayers import KeptHeads, KeptNeurons
from seap_export.pruning.rounding.columns import round_columns
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.note import read_note
from seap_export.pruning.rounding.table_rows import TableRows
from seap_export.pruning.shrink.layer import shrink_layer
from seap_export.pruning.shrink.write import write_shrunk_model
from seap_export.runtime.chat import ChatTemplate
from seap_export.runtime.decoding.decoder import Decoding, OnnxDecoder
from seap_export.runtime.driver import Driver
from seap_export.runtime.files import load_tokenizer
from seap_export.runtime.job import Job
from seap_export.runtime.plugins import SOFTWARE
from seap_export.runtime.providers import device_name
from seap_export.runtime.session import open_session
from validation.divergence.measure import DivergenceFigures
from validation.parity.profiles import Limits
from validation.parity.rounding import round_activations, round_weights
from validation.parity.run import run_parity
from validation.reports.numbers import figure, megabytes, with_error
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner
from validation.runtimes.pytorch.torch_runner import Run, TorchRunner, open_torch_runner
from validation.runtimes.runner import States, padded
from validation.runtimes.table import RUNTIMES, open_runtime
from validation.runtimes.timing import Pace
from validation.speed.interval import Interval
from validation.speed.measure import Timing
from validation.speed.memory import PeakMemory

#: The projections of a layer with attention and an MLP, and those of them that are output projections.
PROJECTIONS: tuple[Projection, ...] = tuple(
    name for name in ALL_PROJECTIONS if name not in (*CONVOLUTION, *DELTA, *MAMBA, "g_proj")
)
OUTPUTS: tuple[Projection, ...] = (Attention.output, Mlp.output)
