"""The HTTP routes, one module a resource. Each checks a request, calls one part, and shapes the answer."""
