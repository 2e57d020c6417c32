"""Tools around Kadenz that need Python: model conversion now, the trainers' client later."""
