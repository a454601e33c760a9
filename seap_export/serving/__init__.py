"""Serves variants over HTTP, in the form of OpenAI's interface; needs the extra `serve`."""
