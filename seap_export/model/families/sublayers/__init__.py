"""The kinds of sublayers that decoder layers are made of, with a file for each kind."""

from seap_export.model.families.sublayers.attention import QK_NORMS, V_NORM, Attention, QkNorm
from seap_export.model.families.sublayers.convolution import Convolution
from seap_export.model.families.sublayers.delta_net import DeltaNet
from seap_export.model.families.sublayers.experts import Experts, Gates
from seap_export.model.families.sublayers.grouped import Grouped
from seap_export.model.families.sublayers.layer_input import LayerInput
from seap_export.model.families.sublayers.mamba import Mamba
from seap_export.model.families.sublayers.mlp import Activation, Mlp
from seap_export.model.families.sublayers.shared_expert import SharedExpert
from seap_export.model.families.sublayers.sublayer import Sublayer

__all__ = [
    "QK_NORMS", "V_NORM", "Activation", "Attention", "Convolution", "DeltaNet", "Experts", "Gates", "Grouped",
    "LayerInput", "Mamba", "Mlp", "QkNorm", "SharedExpert", "Sublayer",
]  # fmt: skip
