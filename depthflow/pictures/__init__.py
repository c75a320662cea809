"""Pictures for people: panels, charts, and the page that holds them."""
