"""What tests share: micro models, texts, plans, exports, oracles and stand-ins."""
