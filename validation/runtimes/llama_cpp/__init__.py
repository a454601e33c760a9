"""The runtime llama.cpp, in a child process, because it ends its process when an assertion fails."""
