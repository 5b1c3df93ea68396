"""The paper's two training stages, LoRAs and few-step distillation, on accelerate."""
