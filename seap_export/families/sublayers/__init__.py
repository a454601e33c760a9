"""What the layers of decoders are made of: one file for each kind of sublayer."""

from seap_export.families.sublayers.attention import QK_NORMS, Attention, QkNorm
from seap_export.families.sublayers.convolution import Convolution
from seap_export.families.sublayers.experts import Experts
from seap_export.families.sublayers.mlp import Activation, Mlp
from seap_export.families.sublayers.shared_expert import SharedExpert
from seap_export.families.sublayers.sublayer import Sublayer

__all__ = [
    "QK_NORMS",
    "Activation",
    "Attention",
    "Convolution",
    "Experts",
    "Mlp",
    "QkNorm",
    "SharedExpert",
    "Sublayer",
]
