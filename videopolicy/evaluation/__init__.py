"""An evaluation in parts: what is measured, by which policy, and where its episodes and rates are kept."""
