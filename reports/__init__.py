"""Tables, plots and pages: pure functions of score records and of published figures; no model runs here."""
