"""The packages of OpenVINO, imported only when something is written or run."""

from __future__ import annotations

from functools import partial

from seap_export.common.extras import import_of_extra

#: The extra of this package that installs OpenVINO's packages.
EXTRA = "openvino"
#: Imports one of OpenVINO's packages, such as `openvino` or `openvino_tokenizers`; see `import_of_extra`.
require = partial(import_of_extra, EXTRA)
