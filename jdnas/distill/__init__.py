"""Knowledge distillation for detection: feature level on RoI features, prediction level on class scores and boxes."""
