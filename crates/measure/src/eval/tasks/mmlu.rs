//! MMLU: a task per subject, all of the form that mmlu.yaml defines.

use std::path::Path;
use std::sync::OnceLock;

use sherry::{Error, Result};

use super::super::yaml;
use super::{Task, defined};

/// The subjects, as the data set names its configurations.
const SUBJECTS: [&str; 57] = [
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
];

/// Its tasks, one per subject, in the order of their names.
pub(super) fn tasks() -> Result<&'static [&'static Task]> {
    static TASKS: OnceLock<Vec<&'static Task>> = OnceLock::new();
    if let Some(tasks) = TASKS.get() {
        return Ok(tasks);
    }
    let path = Path::new("mmlu.yaml");
    let common = yaml::parse(include_str!("mmlu.yaml"))
        .map_err(|(line, problem)| Error::malformed(path, format!("line {line}"), problem))?;
    let of_subject = |subject: &&str| {
        let mut fields = common.clone();
        let subject_in_words = subject.replace('_', " ");
        let description =
            format!("The following are multiple choice questions (with answers) about {subject_in_words}.\n\n");
        fields.insert("task".into(), format!("mmlu_{subject}").into());
        fields.insert("dataset_name".into(), (*subject).into());
        fields.insert("description".into(), description.into());
        defined::from_fields(path, fields)
    };
    let tasks = SUBJECTS.iter().map(of_subject).collect::<Result<Vec<_>>>()?;
    Ok(TASKS.get_or_init(|| tasks))
}
