"""`optimum-cli export seap`: the command, and under `optimum/` the file by which optimum finds it.

That file is installed as `optimum/commands/register/register_seap.py` in optimum's namespace package. Its folders have
no `__init__.py`, which would hide optimum's modules.
"""
