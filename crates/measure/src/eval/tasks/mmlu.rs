//! MMLU: a task per subject, all of the form that mmlu.yaml defines.

use std::path::Path;
use std::sync::OnceLock;

use sherry::{Error, Result};

use super::super::yaml;
use super::{Task, defined};

/// What the harness averages by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Humanities,
    Other,
    SocialSciences,
    Stem,
}
use Group::{Humanities, Other, SocialSciences, Stem};

/// The subjects, as the data set names its configurations, and their groups.
const SUBJECTS: [(&str, Group); 57] = [
    ("abstract_algebra", Stem),
    ("anatomy", Stem),
    ("astronomy", Stem),
    ("business_ethics", Other),
    ("clinical_knowledge", Other),
    ("college_biology", Stem),
    ("college_chemistry", Stem),
    ("college_computer_science", Stem),
    ("college_mathematics", Stem),
    ("college_medicine", Other),
    ("college_physics", Stem),
    ("computer_security", Stem),
    ("conceptual_physics", Stem),
    ("econometrics", SocialSciences),
    ("electrical_engineering", Stem),
    ("elementary_mathematics", Stem),
    ("formal_logic", Humanities),
    ("global_facts", Other),
    ("high_school_biology", Stem),
    ("high_school_chemistry", Stem),
    ("high_school_computer_science", Stem),
    ("high_school_european_history", Humanities),
    ("high_school_geography", SocialSciences),
    ("high_school_government_and_politics", SocialSciences),
    ("high_school_macroeconomics", SocialSciences),
    ("high_school_mathematics", Stem),
    ("high_school_microeconomics", SocialSciences),
    ("high_school_physics", Stem),
    ("high_school_psychology", SocialSciences),
    ("high_school_statistics", Stem),
    ("high_school_us_history", Humanities),
    ("high_school_world_history", Humanities),
    ("human_aging", Other),
    ("human_sexuality", SocialSciences),
    ("international_law", Humanities),
    ("jurisprudence", Humanities),
    ("logical_fallacies", Humanities),
    ("machine_learning", Stem),
    ("management", Other),
    ("marketing", Other),
    ("medical_genetics", Other),
    ("miscellaneous", Other),
    ("moral_disputes", Humanities),
    ("moral_scenarios", Humanities),
    ("nutrition", Other),
    ("philosophy", Humanities),
    ("prehistory", Humanities),
    ("professional_accounting", Other),
    ("professional_law", Humanities),
    ("professional_medicine", Other),
    ("professional_psychology", SocialSciences),
    ("public_relations", SocialSciences),
    ("security_studies", SocialSciences),
    ("sociology", SocialSciences),
    ("us_foreign_policy", SocialSciences),
    ("virology", Other),
    ("world_religions", Humanities),
];

/// Version of the groups in the harness.
pub(in crate::eval) const GROUP_VERSION: u32 = 2;

/// MMLU and the groups of its subjects: name, what the harness's table calls it, and the names of its tasks.
pub(in crate::eval) fn groups() -> impl Iterator<Item = (&'static str, &'static str, Vec<String>)> {
    let of = |wanted: Option<Group>| {
        let subjects = SUBJECTS.iter().filter(move |(_, group)| wanted.is_none_or(|wanted| wanted == *group));
        subjects.map(|(subject, _)| format!("mmlu_{subject}")).collect()
    };
    [
        ("mmlu", "mmlu", None),
        ("mmlu_humanities", " - humanities", Some(Humanities)),
        ("mmlu_other", " - other", Some(Other)),
        ("mmlu_social_sciences", " - social sciences", Some(SocialSciences)),
        ("mmlu_stem", " - stem", Some(Stem)),
    ]
    .into_iter()
    .map(move |(name, label, group)| (name, label, of(group)))
}

/// Its tasks, one per subject, in the order of their names.
pub(super) fn tasks() -> Result<&'static [&'static Task]> {
    static TASKS: OnceLock<Vec<&'static Task>> = OnceLock::new();
    if let Some(tasks) = TASKS.get() {
        return Ok(tasks);
    }
    let path = Path::new("mmlu.yaml");
    let common = yaml::parse(include_str!("mmlu.yaml"))
        .map_err(|(line, problem)| Error::malformed(path, format!("line {line}"), problem))?;
    let of_subject = |(subject, _): &(&str, Group)| {
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
