//! `models`, `slices` and `modules`: what the output is made of.

use super::{Member, Model, Module, Part, parameters, reference};
use crate::spec::{Base, Spec};
use polmrs_core::Result;
use polmrs_io::yaml::{Field, Fields, Value};
use std::ops::Range;

/// Keys that mergekit documents and ignores, by the place that has them: place, key, why.
const IGNORED: [(&str, &str, &str); 1] =
    [("slices", "residual_weight", "has no effect: mergekit accepts it and never reads it")];

/// Every model that was named, once.
#[derive(Default)]
pub(super) struct References {
    pub(super) models: Vec<Model>,
}

impl References {
    /// The number of a reference; `place` is where it stands.
    pub(super) fn intern(&mut self, reference: String, place: &str) -> usize {
        self.models.iter().position(|model| model.reference == reference).unwrap_or_else(|| {
            self.models.push(Model { reference, place: place.into() });
            self.models.len() - 1
        })
    }
}

/// What a reader of parts knows of the rest of the configuration.
pub(super) struct Reader<'a> {
    pub(super) spec: &'static Spec,
    pub(super) base: Option<&'a str>,
}

impl Reader<'_> {
    /// Takes `models`, `slices` or `modules`, of which one must be there.
    pub(super) fn modules<'a>(
        &self,
        root: &Field<'a>,
        fields: &mut Fields<'a>,
        references: &mut References,
    ) -> Result<Vec<Module>> {
        let parts = self.parts(root, fields, references, ["models", "slices", "modules"])?;
        let named = fields.optional("modules", |field| {
            let entries = field.as_map()?;
            if entries.is_empty() {
                return Err(field.error("an empty map names no module"));
            }
            entries.into_iter().map(|(name, field)| self.module(name, &field, references)).collect::<Result<Vec<_>>>()
        })?;
        Ok(match (parts, named) {
            (Some(parts), _) => vec![Module { name: None, place: String::new(), parts, parameters: Vec::new() }],
            (None, named) => named.unwrap_or_default(),
        })
    }

    fn module(&self, name: &str, field: &Field<'_>, references: &mut References) -> Result<Module> {
        let mut fields = field.fields()?;
        let parts = self.parts(field, &mut fields, references, ["models", "slices", ""])?.unwrap_or_default();
        let parameters = fields.optional("parameters", |field| parameters::decode(field, self.spec, true))?;
        fields.finish()?;
        let parameters = parameters.unwrap_or_default();
        Ok(Module { name: Some(name.into()), place: field.path().into(), parts, parameters })
    }

    /// Takes `models` or `slices`; nothing where the third way is taken. Exactly one of `ways` must be there.
    fn parts<'a>(
        &self,
        field: &Field<'a>,
        fields: &mut Fields<'a>,
        references: &mut References,
        ways: [&'static str; 3],
    ) -> Result<Option<Vec<Part>>> {
        let given = |key: &&str| matches!(field.value(), Value::Map(map) if map.get(key).is_some_and(|node| node.value != Value::Null));
        let taken: Vec<&str> = ways.into_iter().filter(given).collect();
        match taken.as_slice() {
            [] => fields.required("models", |_| Ok(None)),
            ["models"] => fields.optional("models", |list| Ok(vec![self.all_layers(field, list, references)?])),
            ["slices"] => fields.optional("slices", |list| {
                let slices = list.each(|slice| self.slice(slice, references))?;
                if slices.is_empty() { Err(list.error("an empty list has no layers")) } else { Ok(slices) }
            }),
            [_] => Ok(None),
            [one, another, ..] => Err(field.error(format_args!("'{one}' and '{another}' exclude each other"))),
        }
    }

    /// All layers of a list of models; a base that is not among them is added.
    fn all_layers(&self, owner: &Field<'_>, list: &Field<'_>, references: &mut References) -> Result<Part> {
        self.check_base(owner, self.base.is_some())?;
        let mut members = list.each(|field| {
            let mut fields = field.fields()?;
            let member = self.member(field, &mut fields, references, None)?;
            fields.finish()?;
            Ok(member)
        })?;
        let base = self.base.map(|base| {
            let model = references.intern(base.into(), "base_model");
            members.iter().position(|member| member.model == model).unwrap_or_else(|| {
                members.push(Member { model, place: "base_model".into(), layers: None, parameters: Vec::new() });
                members.len() - 1
            })
        });
        let part = Part { place: owner.path().into(), members, base, parameters: Vec::new() };
        self.check_count(owner, "models", &part)?;
        Ok(part)
    }

    fn slice(&self, field: &Field<'_>, references: &mut References) -> Result<Part> {
        let mut fields = field.fields()?;
        let members = fields.required("sources", |list| {
            list.each(|field| {
                let mut fields = field.fields()?;
                let layers = fields.required("layer_range", layer_range)?;
                let member = self.member(field, &mut fields, references, Some(layers))?;
                fields.finish()?;
                Ok(member)
            })
        })?;
        let own_base = fields.optional("base_model", reference)?;
        let parameters = fields.optional("parameters", |field| parameters::decode(field, self.spec, true))?;
        for (_, key, why) in IGNORED.iter().filter(|(place, ..)| *place == "slices") {
            fields.ignored(key, why);
        }
        fields.finish()?;
        let base = match own_base.as_deref().or(self.base.filter(|base| *base != super::adapter::ZERO)) {
            None => None,
            Some(base) => {
                let at = members.iter().position(|member| references.models[member.model].reference == base);
                if at.is_none() && self.spec.base != Base::Ignored {
                    return Err(field.error(format_args!(
                        "the base '{base}' is not among the sources; list it with the layers that stand for it"
                    )));
                }
                at
            }
        };
        self.check_base(field, base.is_some())?;
        let part = Part { place: field.path().into(), members, base, parameters: parameters.unwrap_or_default() };
        self.check_count(field, "sources", &part)?;
        check_lengths(field, &part)?;
        Ok(part)
    }

    fn member<'a>(
        &self,
        field: &Field<'a>,
        fields: &mut Fields<'a>,
        references: &mut References,
        layers: Option<Range<u64>>,
    ) -> Result<Member> {
        let model = fields.required("model", reference)?;
        let parameters = fields.optional("parameters", |field| parameters::decode(field, self.spec, false))?;
        let (place, parameters) = (field.path().to_owned(), parameters.unwrap_or_default());
        Ok(Member { model: references.intern(model, &place), place, layers, parameters })
    }

    fn check_base(&self, field: &Field<'_>, given: bool) -> Result<()> {
        if given || self.spec.base != Base::Required {
            return Ok(());
        }
        Err(field.error(format_args!("'base_model' is missing; {} needs it", self.spec.name)))
    }

    fn check_count(&self, field: &Field<'_>, list: &str, part: &Part) -> Result<()> {
        let has_base = part.base.is_some() && self.spec.base != Base::Ignored;
        let (count, (least, most)) = (part.members.len() - usize::from(has_base), self.spec.models);
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let rule = if least == most { least.to_string() } else { format!("{least} or more") };
        let beside = if has_base { " besides the base" } else { "" };
        Err(field.error(format_args!("{list}: {} takes {rule}{beside}, not {count}", self.spec.name)))
    }
}

/// `[first, end)`, at least one layer.
fn layer_range(field: &Field<'_>) -> Result<Range<u64>> {
    let ends = field.each(Field::as_count)?;
    match ends.as_slice() {
        [start, end] if start < end => Ok(*start as u64..*end as u64),
        [start, end] => Err(field.error(format_args!("[{start}, {end}] holds no layer; the end is not included"))),
        _ => Err(field.error("not two numbers: the first layer, and the one after the last")),
    }
}

/// Every source of a slice gives the same number of layers.
fn check_lengths(field: &Field<'_>, part: &Part) -> Result<()> {
    let length = |member: &Member| member.layers.as_ref().map(|layers| layers.end - layers.start);
    let first = &part.members[0];
    match part.members.iter().find(|member| length(member) != length(first)) {
        None => Ok(()),
        Some(member) => Err(field.error(format_args!(
            "sources: {} has {} layers, but {} has {}",
            first.place,
            length(first).unwrap_or(0),
            member.place,
            length(member).unwrap_or(0)
        ))),
    }
}
