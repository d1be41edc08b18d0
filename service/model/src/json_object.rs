use serde_json::{Map, Value};

use crate::ModelError;

/// One of the small JSON files of a model directory, read key by key so that a complaint can name
/// the key. An absent key and `null` are the same, as they are to the Python that wrote the file.
pub(crate) struct JsonObject {
    file: String,
    map: Map<String, Value>,
}

impl JsonObject {
    pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<JsonObject, ModelError> {
        let map = serde_json::from_slice(bytes).map_err(|source| ModelError::Json {
            file: file.to_owned(),
            source,
        })?;
        Ok(JsonObject {
            file: file.to_owned(),
            map,
        })
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a whole number of at least zero", |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok())
        })
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<JsonObject>, ModelError> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| JsonObject {
            file: format!("{}: {key}", self.file),
            map: map.clone(),
        }))
    }

    /// Token ids written as one number or as a list of them.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = self.typed(key, "a token id or a list of them", |value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    pub(crate) fn refuse(&self, key: &str, reason: impl Into<String>) -> ModelError {
        ModelError::Config {
            file: self.file.clone(),
            key: key.to_owned(),
            reason: reason.into(),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => {
                let shown: String = value.to_string().chars().take(60).collect();
                Err(self.refuse(key, format!("is {shown}, expected {wanted}")))
            }
        }
    }
}
