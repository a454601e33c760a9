"""`optimum-cli export seap`: the command, and under `optimum/` the file with which optimum finds it.

That file is installed as `optimum/commands/register/register_seap.py`, a part of optimum's namespace package; its
folders have no `__init__.py`, which would hide optimum's own modules.
"""
