"""A request over HTTP to what it says: address, body, form, proxy, deadline; alike for every route."""
