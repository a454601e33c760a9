"""The commands that seap-export adds to `optimum-cli`, which reads this file at every start."""

from optimum.commands.export.base import ExportCommand

from seap_export.optimum_plugin.command import SeapExportCommand

REGISTER_COMMANDS = [(SeapExportCommand, ExportCommand)]
