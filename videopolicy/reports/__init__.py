"""Parts of `videopolicy report`: the evaluations that a path holds, what is said of each, the page, its videos."""
