//! Random inputs: no reader panics.

use testbed::try_inputs;

use crate::readers;

#[test]
fn no_input_of_the_corpus_and_no_mutation_of_one_makes_a_reader_panic() {
    for (target, check) in readers::TARGETS {
        try_inputs(target, check);
    }
}
