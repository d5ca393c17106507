"""Which tests are the core, which are compiled as for users, which settings always run.

Paths from this folder; a test is `path::name`. tests/conftest.py applies them.
"""

import pytest

# A minute of tests, `pytest -m core`: files, or folders, that say most for their time.
CORE = (
    "test_house.py", "test_suite.py", "test_checks.py", "test_activations.py", "test_schemes.py",
    "test_data.py", "networks/test_linear_map.py", "networks/test_losses.py",
    "networks/test_scaled.py", "theory/moments/test_expectation.py", "theory/moments/test_roots.py",
    "theory/test_ensemble.py", "models/tracing/test_rules.py", "sweeps/test_sweep_grid.py",
)  # fmt: skip

# Compiled as for users: drawing, training and sweeps, numbers at the edge of float32, what is the
# same bit for bit, mapped or looped, eager or not; and what computes for longer than it compiles.
# Folders, files or tests.
OPTIMISED = (
    "sweeps", "test_benchmarks.py", "test_runtime.py",
    "networks/test_batch_norm.py", "networks/test_linear_map.py", "networks/test_losses.py",
    "networks/test_mlp.py", "networks/test_params.py", "networks/test_scaled.py",
    "networks/test_training.py",
    "networks/test_correlations.py::test_mapped_over_seeds_and_gains_equals_one_by_one_in_one_trace",
    "networks/test_correlations.py::test_near_one_nothing_cancels",
    "networks/test_correlations.py::test_they_are_right_where_lengths_leave_float32",
    "networks/test_jacobian_measured.py::test_mapped_over_seeds_equals_one_by_one_in_one_trace",
    "networks/test_layer.py::test_a_branch_far_below_the_stream_has_its_gradient",
    "networks/test_network.py::test_mapped_equals_one_by_one_in_one_trace_with_records_and_dropout",
    "networks/test_network.py::test_a_run_in_two_parts_is_the_run_in_one",
    "networks/test_signals.py::test_mapped_equals_looped_and_eager_equals_jitted",
    "models/drawing/test_reinit.py::test_mapped_over_keys_is_a_loop",
    "models/drawing/test_reinit.py::test_many_gains_are_one_trace_and_mapped_gains_a_loop",
    "models/drawing/test_reinit.py::test_numbers_that_are_not_finite_change_no_draw",
    "models/drawing/test_reinit.py::test_the_automatic_gain_inside_a_jit",
    # Longer in computing than in compiling:
    "models/drawing/test_reinit.py::test_he_keeps_the_signal_over_thirty_layers",
    "networks/test_correlations.py::test_the_mean_over_seeds_is_theorys_trajectory",
    "theory/test_agreement.py::test_prediction_agrees_with_simulation",
    "theory/layers/test_norms.py::test_deep_networks_leave_an_unstable_fixed_point",
    "theory/maps/test_lengths.py::test_twenty_networks_of_cs231n_agree_with_infinite_width",
    "theory/maps/test_tailored.py::test_correlation_behind_a_wide_network",
)  # fmt: skip

# Of families whose every setting takes seconds: those that always run. The others are `long`.
ALWAYS = {
    "cli/test_theory_command.py::test_every_activation_gets_a_report_that_fits_a_terminal": (
        "identity", "hard_tanh", "hard_sigmoid", "selu", "gelu_tanh", "softplus", "sin", "own",
    ),
    "models/diagnosis/test_one_record.py::test_two_instruments_read_the_same": (
        "gelu-None-None", "sigmoid-layer-None", "tanh-None-plain", "gelu-None-skipinit",
        "relu-batch-scaled",
    ),
    "models/diagnosis/test_one_record.py::test_the_same_model_in_linen": ("gelu-layer-scaled",),
    "models/diagnosis/test_one_record.py::test_the_same_model_in_equinox": ("relu-None-scaled",),
    "models/drawing/test_gradinit.py::"
    "test_gradinit_lowers_the_loss_after_one_step_under_its_bound": (
        "3.0-sgd-0.1-1.0", "0.5-adam-0.001-None",
    ),
    "models/drawing/test_lsuv.py::test_every_layer_has_unit_variance": (
        "residual", "transformer", "gru",
    ),
    "models/drawing/test_metainit.py::"
    "test_metainit_lowers_the_gradient_quotient_and_comes_nearer_to_criticality": ("0.5-1.7",),
    "models/drawing/test_reinit.py::test_mapped_over_keys_is_a_loop": (
        "linen scan on axis 1", "haiku gru",
    ),
    "models/drawing/test_reinit.py::test_he_keeps_the_signal_over_thirty_layers": ("cnn",),
    "models/scaling/test_coordinate_check.py::"
    "test_before_training_only_the_readout_of_mup_shrinks": ("adam",),
    "models/scaling/test_coordinate_check.py::"
    "test_one_step_moves_every_layer_alike_at_every_width": ("adam",),
    "models/scaling/test_coordinate_check.py::"
    "test_the_verdict_names_the_first_layer_that_depends_on_the_width": ("adam",),
    "networks/test_batch_norm.py::test_forward_mode_and_curvature_agree_with_plain_autodiff": (
        "0",
    ),
    "networks/test_correlations.py::test_the_mean_over_seeds_is_theorys_trajectory": (
        "ordered", "relu",
    ),
    "networks/test_correlations.py::test_they_are_what_the_definition_says": (
        "None-None-True", "None-plain-True", "batch-None-True", "batch-skipinit-True",
        "batch-scaled-False", "layer-plain-True",
    ),
    "networks/test_jacobian_measured.py::test_moments_over_seeds_are_theorys": (
        "tanh-orthogonal", "relu-xavier",
    ),
    "networks/test_layer.py::test_every_layer_back_is_the_derivative_of_every_layer_forward": (
        "None-None-True", "None-plain-True", "batch-skipinit-True", "batch-scaled-False",
        "layer-None-True",
    ),
    "networks/test_mlp.py::test_mapped_equals_looped_bit_for_bit": (
        "constant", "normal", "uniform", "he", "glorot_normal", "orthogonal", "delta_orthogonal",
        "looks_linear",
    ),
    "networks/test_mlp.py::test_mapped_equals_looped_bit_for_bit_in_deep_nets": ("orthogonal",),
    "networks/test_mlp.py::test_the_squared_norm_of_a_residual_stream_follows_its_law": (
        "batch-plain-<lambda>",
    ),
    "networks/test_network.py::test_a_run_in_two_parts_is_the_run_in_one": ("linen-6",),
    "networks/test_signals.py::test_mapped_equals_looped_and_eager_equals_jitted": ("batch",),
    "networks/test_signals.py::test_signals_are_those_of_plain_autodiff": (
        "None-None-True-tanh-cross_entropy", "None-plain-True-relu-squared_error",
        "batch-skipinit-True-tanh-cross_entropy", "batch-scaled-False-relu-cross_entropy",
        "layer-plain-True-softplus-squared_error",
    ),
    "networks/test_training.py::test_any_optax_optimiser_learns_under_strict_promotion": (
        "adamw", "lion", "nesterov, clipped, on a schedule",
    ),
    "theory/layers/test_finite_width.py::test_against_networks": ("relu", "tanh", "x_tanh"),
    "theory/layers/test_trajectory.py::test_residual_networks": (
        "None-scaled-64-0.0", "batch-plain-512-0.5",
    ),
    "theory/maps/test_lengths.py::test_twenty_networks_of_cs231n_agree_with_infinite_width": (
        "tanh-normal-options0-0.05", "relu-he-options2-2.0",
    ),
    "theory/test_agreement.py::test_prediction_agrees_with_simulation": (
        "identity", "leaky_relu", "tanh", "gelu", "own",
    ),
}  # fmt: skip

# What takes seven seconds and more, and has a shorter sister that says nearly as much: `long`.
# Tests, or one setting of them.
LONG = (
    "networks/test_training.py::test_signals_at_chosen_steps_are_those_of_the_network_at_that_step",
    "cli/test_theory_command.py::test_gradients_too_small_for_a_float_are_powers_of_ten",
    "models/test_zoo.py::test_healthy_models_have_roles_and_signals_that_live[resnet]",
    "networks/test_params.py::test_a_mapped_stack_reads_the_same_way",
    "theory/test_agreement.py::test_prediction_agrees_with_simulation[leaky_relu]",
    "theory/layers/test_norms.py::test_deep_networks_leave_an_unstable_fixed_point[gelu]",
    "sweeps/test_sweep_results.py::"
    "test_the_block_changes_no_bit_and_the_group_at_most_the_last[8-24]",
    "cli/test_cli.py::test_a_picture_that_cannot_be_written_is_one_sentence",
    "cli/test_cli.py::test_the_picture_of_an_activation_whose_moments_end",
    "experiments/test_planted_errors.py::test_pennington_a_wrong_digit_misses",
    "experiments/test_planted_errors.py::test_poole_planted_errors_miss",
    "experiments/test_planted_errors.py::test_schoenholz_has_its_checks",
    "experiments/test_scripts.py::test_small_setting[deeplearning_ai_initialization]",
    "models/auditing/test_audit.py::"
    "test_a_healthy_scanned_transformer_with_tied_embeddings_has_nothing_odd",
    "models/diagnosis/test_diagnose.py::test_a_healthy_model_is_called_healthy[resnet]",
    "models/diagnosis/test_diagnose.py::test_a_healthy_model_is_called_healthy[transformer]",
    "models/diagnosis/test_diagnose.py::"
    "test_a_planted_fault_is_named_first[batch norm at depth 50]",
    "models/diagnosis/test_diagnose.py::test_a_planted_fault_is_named_first[unscaled residuals]",
    "models/diagnosis/test_diagnose.py::test_no_false_alarm[unrolled in time]",
    "models/diagnosis/test_one_record.py::test_two_instruments_read_the_same[relu-batch-scaled]",
    "models/drawing/test_fixup.py::test_one_fixup_step_changes_the_output_by_as_much_at_any_depth",
    "models/drawing/test_lsuv.py::test_every_layer_has_unit_variance[transformer]",
    "models/drawing/test_metainit.py::test_the_gradient_quotient_is_that_of_the_dense_hessian",
    "models/drawing/test_reinit.py::"
    "test_he_keeps_the_signal_of_an_equinox_model_whose_own_start_loses_it",
    "models/drawing/test_reinit.py::test_he_keeps_the_signal_over_thirty_layers[cnn]",
    "models/drawing/test_reinit.py::test_mapped_over_keys_is_a_loop[haiku gru]",
    "networks/test_correlations.py::"
    "test_mapped_over_seeds_and_gains_equals_one_by_one_in_one_trace",
    "networks/test_jacobian_measured.py::test_mapped_over_seeds_equals_one_by_one_in_one_trace",
    "networks/test_mlp.py::test_mapped_equals_looped_bit_for_bit_in_deep_nets[orthogonal]",
    "networks/test_network.py::test_mapped_equals_one_by_one_in_one_trace_with_records_and_dropout",
    "test_runtime.py::test_many_calls_of_mapped_orthogonal_layers_return",
    "theory/maps/test_lengths.py::"
    "test_twenty_networks_of_cs231n_agree_with_infinite_width[relu-he-options2-2.0]",
    "theory/maps/test_lengths.py::"
    "test_two_fixed_points_closer_than_a_step_of_the_grid_are_found[0.149]",
    "theory/maps/test_tailored.py::test_a_hundred_thousand_layers",
    "theory/layers/test_norms.py::test_deep_networks_leave_an_unstable_fixed_point[silu]",
    "theory/spectra/test_jacobian.py::test_products_of_random_matrices[own]",
    "theory/spectra/test_jacobian.py::test_products_of_random_matrices[tanh]",
    "theory/spectra/test_jacobian.py::test_shares_of_orthogonal_products[leaky_relu]",
    "theory/test_agreement.py::test_prediction_agrees_with_simulation[identity]",
)

COLLECTED = pytest.StashKey[frozenset[str]]()
"""Every test that a run has collected, the long ones included."""
