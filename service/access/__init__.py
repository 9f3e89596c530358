"""Who may call: API keys, what each lets its holder do, and what each route asks for."""
