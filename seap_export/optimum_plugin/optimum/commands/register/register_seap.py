"""Read by `optimum-cli` at every start: the commands that seap-export adds to it."""

from optimum.commands.export.base import ExportCommand

from seap_export.optimum_plugin.command import SeapExportCommand

REGISTER_COMMANDS = [(SeapExportCommand, ExportCommand)]
