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
        "identity", "hard_tanh", "hard_sigmoid", "gelu_tanh", "softplus", "sin", "own",
    ),
    "models/diagnosis/test_one_record.py::test_two_instruments_read_the_same": (
        "sigmoid-layer-None", "gelu-None-skipinit",
    ),
    "models/diagnosis/test_one_record.py::test_the_same_model_in_linen": ("gelu-layer-scaled",),
    "models/drawing/test_gradinit.py::"
    "test_gradinit_lowers_the_loss_after_one_step_under_its_bound": ("0.5-adam-0.001-None",),
    "models/drawing/test_lsuv.py::test_every_layer_has_unit_variance": ("gru",),
    "models/drawing/test_reinit.py::test_mapped_over_keys_is_a_loop": ("linen scan on axis 1",),
    "models/scaling/test_coordinate_check.py::"
    "test_before_training_only_the_readout_of_mup_shrinks": ("adam",),
    "models/scaling/test_coordinate_check.py::"
    "test_the_verdict_names_the_first_layer_that_depends_on_the_width": ("adam",),
    "networks/test_convnet.py::test_outputs_and_signals_are_those_of_plain_jax": (
        "batch-skipinit-True-circular", "group-None-True-same",
    ),
    "networks/test_convnet.py::test_every_scheme_draws_every_layer": (
        "he", "delta_orthogonal", "looks_linear",
    ),
    "networks/test_convnet.py::test_scanned_equals_unrolled_and_mapped_equals_looped": ("scaled",),
    "networks/test_convnet.py::test_a_thousand_delta_orthogonal_layers_are_a_straight_line": (
        "0.01",
    ),
    "networks/test_correlations.py::test_the_mean_over_seeds_is_theorys_trajectory": ("ordered",),
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
        "constant", "he", "orthogonal", "delta_orthogonal", "looks_linear",
    ),
    "networks/test_signals.py::test_mapped_equals_looped_and_eager_equals_jitted": ("batch",),
    "networks/test_signals.py::test_signals_are_those_of_plain_autodiff": (
        "None-None-True-tanh-cross_entropy", "batch-skipinit-True-tanh-cross_entropy",
        "batch-scaled-False-relu-cross_entropy", "layer-plain-True-softplus-squared_error",
    ),
    "networks/test_training.py::test_any_optax_optimiser_learns_under_strict_promotion": ("adamw",),
    "theory/layers/test_finite_width.py::test_against_networks": ("tanh",),
    "theory/layers/test_trajectory.py::test_residual_networks": ("None-scaled-64-0.0",),
    "theory/maps/test_lengths.py::test_twenty_networks_of_cs231n_agree_with_infinite_width": (
        "tanh-normal-options0-0.05",
    ),
    "theory/test_agreement.py::test_prediction_agrees_with_simulation": ("tanh",),
}  # fmt: skip

# What takes three seconds and more, and has a shorter sister that says nearly as much: `long`.
# Tests, or one setting of them.
LONG = (
    "networks/test_training.py::test_signals_at_chosen_steps_are_those_of_the_network_at_that_step",
    "cli/test_theory_command.py::test_gradients_too_small_for_a_float_are_powers_of_ten",
    "models/test_zoo.py::test_healthy_models_have_roles_and_signals_that_live[resnet]",
    "networks/test_params.py::test_a_mapped_stack_reads_the_same_way",
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
    "models/drawing/test_fixup.py::test_one_fixup_step_changes_the_output_by_as_much_at_any_depth",
    "models/drawing/test_metainit.py::test_the_gradient_quotient_is_that_of_the_dense_hessian",
    "models/drawing/test_reinit.py::"
    "test_he_keeps_the_signal_of_an_equinox_model_whose_own_start_loses_it",
    "networks/test_correlations.py::"
    "test_mapped_over_seeds_and_gains_equals_one_by_one_in_one_trace",
    "networks/test_jacobian_measured.py::test_mapped_over_seeds_equals_one_by_one_in_one_trace",
    "networks/test_network.py::test_mapped_equals_one_by_one_in_one_trace_with_records_and_dropout",
    "test_runtime.py::test_many_calls_of_mapped_orthogonal_layers_return",
    "theory/maps/test_lengths.py::"
    "test_two_fixed_points_closer_than_a_step_of_the_grid_are_found[0.149]",
    "theory/maps/test_tailored.py::test_a_hundred_thousand_layers",
    "theory/layers/test_norms.py::test_deep_networks_leave_an_unstable_fixed_point[silu]",
    "theory/spectra/test_jacobian.py::test_products_of_random_matrices[own]",
    "theory/spectra/test_jacobian.py::test_products_of_random_matrices[tanh]",
    "theory/spectra/test_jacobian.py::test_shares_of_orthogonal_products[leaky_relu]",
    "test_trainability.py::test_shards_of_a_map_share_a_store_that_is_read_in_every_form",
    "models/drawing/test_lsuv.py::test_mapped_over_keys_is_the_loop_and_compiles_once",
    "models/drawing/test_reinit.py::test_many_gains_are_one_trace_and_mapped_gains_a_loop",
    "models/scaling/test_coordinate_check.py::test_a_transformer_is_checked_from_its_embedding_on",
    "models/scaling/test_coordinate_check.py::test_sizes_are_those_of_the_model_itself",
    "models/scaling/test_mup.py::test_an_embedding_comes_back_to_the_size_that_it_has_in_the_base",
    "test_trainability.py::test_relu_hands_the_gradient_back_where_he_says",
    "test_trainability.py::test_the_ratio_is_a_natural_logarithm_on_any_data[digits]",
    "cli/test_cli.py::test_theory_of_a_function_of_ones_own_with_its_picture",
    "models/diagnosis/test_one_record.py::"
    "test_a_branch_that_starts_at_zero_has_the_same_signals_too",
    "models/drawing/test_images.py::test_layers_that_are_stacked_in_the_model_to_be_looped_over",
    "models/drawing/test_images.py::test_he_is_he_in_what_is_applied[MADE's mask]",
    "models/starts/test_starts.py::test_an_encoder_and_a_decoder_have_depths_of_their_own",
    "models/starts/test_starts.py::test_skipinit_keeps_signal_and_gradient_over_100_layers",
    "models/starts/test_starts.py::test_a_start_has_its_sources_std[mimetic]",
    "models/starts/test_starts.py::"
    "test_the_starts_fixup_and_skipinit_are_the_functions_of_their_names",
    "networks/test_training.py::test_optimizers_that_ask_for_the_loss[lbfgs]",
    "models/drawing/test_lsuv.py::test_biases_and_norms_are_as_reinit_leaves_them",
    "models/drawing/test_lsuv.py::test_a_layer_that_is_called_twice_and_equinox",
    "theory/layers/test_trajectory.py::test_normalised_networks[gelu-layer]",
    "models/test_model.py::"
    "test_a_tool_is_the_function_of_its_name_and_the_model_is_called_once[gradinit]",
    "models/test_model.py::"
    "test_a_tool_is_the_function_of_its_name_and_the_model_is_called_once[fixup]",
    "models/test_model.py::"
    "test_a_tool_is_the_function_of_its_name_and_the_model_is_called_once[gradient_quotient]",
    "models/test_model.py::"
    "test_a_tool_is_the_function_of_its_name_and_the_model_is_called_once[metainit]",
    "networks/test_mlp.py::test_any_initializer_is_accepted_where_a_name_is",
    "networks/test_mlp.py::test_looks_linear_relu_nets_are_linear_at_any_depth[dims4]",
    "networks/test_mlp.py::test_looks_linear_relu_nets_are_linear_at_any_depth[dims3]",
    "theory/maps/test_criticality.py::test_a_phase_diagram_of_moments_that_end",
    "models/drawing/test_gradinit.py::test_gradinit_mapped_over_seeds_and_bounds_is_a_loop[sgd]",
    "models/drawing/test_scales.py::test_layers_stacked_on_another_axis[metainit]",
    "models/drawing/test_scales.py::"
    "test_stacked_layers_have_a_scale_each_as_if_they_lay_apart[metainit]",
    "models/drawing/test_metainit.py::test_metainit_mapped_over_seeds_and_learning_rates_is_a_loop",
    "models/drawing/test_metainit.py::"
    "test_inputs_given_by_shape_are_drawn_from_the_key_and_arrays_are_not",
    "experiments/test_planted_errors.py::test_poole_what_is_no_number_misses",
    "experiments/test_planted_errors.py::test_schoenholz_wrong_depth_scales_miss",
    "experiments/test_planted_errors.py::test_schoenholz_a_depth_scale_half_as_long_again_misses",
    "theory/layers/test_norms.py::test_networks_with_batch_norm[gelu-8]",
    "theory/layers/test_norms.py::test_networks_with_batch_norm[x_tanh-10]",
    "theory/maps/test_tailored.py::test_a_wide_network_keeps_mean_0_and_variance_1",
    "theory/maps/test_tailored.py::test_correlation_behind_a_wide_network",
    "models/starts/test_starts.py::test_a_start_has_its_sources_std[keras]",
    "models/starts/test_starts.py::test_a_start_has_its_sources_std[llama_depth]",
    "models/drawing/test_scales.py::"
    "test_stacked_layers_have_a_scale_each_as_if_they_lay_apart[gradinit]",
    "models/drawing/test_scales.py::test_layers_stacked_on_another_axis[gradinit]",
    "test_trainability.py::test_the_ratio_is_a_natural_logarithm_on_any_data[regression]",
    "test_trainability.py::test_the_ratio_is_a_natural_logarithm_on_any_data[circles]",
    "networks/test_network.py::test_training_equals_a_loop_by_hand[dict]",
    "models/tracing/test_probe.py::"
    "test_a_model_and_its_gradient_are_the_same_under_the_interpreter[jax-indexed-stack]",
    "models/tracing/test_probe.py::"
    "test_a_model_and_its_gradient_are_the_same_under_the_interpreter[equinox-resnet-train]",
    "networks/test_signals.py::test_large_weights_overflow_nothing_either[tanh]",
    "models/drawing/test_gradinit.py::test_gradinit_mapped_over_seeds_and_bounds_is_a_loop[adam]",
    "models/diagnosis/test_one_record.py::test_the_same_model_in_equinox",
    "models/drawing/test_metainit.py::"
    "test_metainit_lowers_the_gradient_quotient_and_comes_nearer_to_criticality",
    "models/drawing/test_reinit.py::test_he_keeps_the_signal_over_thirty_layers",
    "models/scaling/test_coordinate_check.py::test_one_step_moves_every_layer_alike_at_every_width",
    "networks/test_batch_norm.py::test_forward_mode_and_curvature_agree_with_plain_autodiff",
    "networks/test_mlp.py::test_mapped_equals_looped_bit_for_bit_in_deep_nets",
    "networks/test_mlp.py::test_the_squared_norm_of_a_residual_stream_follows_its_law",
    "networks/test_network.py::test_a_run_in_two_parts_is_the_run_in_one",
)

COLLECTED = pytest.StashKey[frozenset[str]]()
"""Every test that a run has collected, the long ones included."""
