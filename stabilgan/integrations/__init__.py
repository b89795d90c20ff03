"""What a framework can't do with the four lines.

Only Lightning needs an adapter: `stabilgan.integrations.lightning.GameCallback`. It makes the optimizers before a
LightningModule is restored and wrapped, which is when tricks have to add layers, and it puts the game into checkpoints.

The others need none. A game has `state_dict` and `load_state_dict`, which is all that they ask of what they save:

- Fabric: attach to what `fabric.setup` returns; `fabric.save(path, {..., "game": game})`.
- Accelerate: attach to what `accelerator.prepare` returns; `accelerator.register_for_checkpointing(game)`.
- ignite: `Checkpoint({..., "game": game}, ...)`; `engine.state.metrics.update(game.readings())` for its progress bar.

Each is whole in `examples/`. Nothing here is imported with `stabilgan`; a framework is imported by who uses it.
"""
