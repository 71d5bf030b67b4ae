# shellcheck shell=bash
# Shared by the scripts: saying what is done, and getting what is missing.

# What the scripts make for themselves; safe to delete at any time.
CACHE="$ROOT/.cache"

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "need root to run: $* (there is no sudo here)"
    fi
}

# apt_install PACKAGE…: installs with apt, refreshing its lists if that is what is missing.
apt_install() {
    say "installing $*"
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; then
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    fi
}

# Is there a directory with all of PostgreSQL's programs we need? (src/cli/local_cluster looks
# in the same places.)
find_postgres() {
    local dir
    for dir in "${PGWEIR_PG_BIN:-/nonexistent}" "$(pg_config --bindir 2>/dev/null || true)" \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /Applications/Postgres.app/Contents/Versions/*/bin; do
        if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && [ -x "$dir/pg_ctl" ] && [ -x "$dir/psql" ]; then
            printf '%s\n' "$dir"
            return 0
        fi
    done
    return 1
}

need_postgres() {
    find_postgres >/dev/null && return 0
    if have apt-get; then
        # A server of the package's own would start by itself; we want only its programs.
        if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
            as_root mkdir -p /etc/postgresql-common
            printf 'create_main_cluster = false\n' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
        fi
        apt_install postgresql postgresql-contrib
    elif have brew; then
        say "installing postgresql@17 with Homebrew"
        brew install -q postgresql@17
    elif have dnf; then
        say "installing PostgreSQL with dnf"
        as_root dnf install -y -q postgresql-server postgresql-contrib
    fi
    find_postgres >/dev/null || die "PostgreSQL could not be installed here; install it by hand and, if it is in an unusual place, set PGWEIR_PG_BIN to the directory with initdb and postgres"
}

need_rust() {
    if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! have cargo; then
        local answer=""
        if [ -t 0 ]; then
            read -r -p "pgweir is built from source and there is no Rust toolchain here. Get it with rustup (https://rustup.rs)? [y/N] " answer
        fi
        case "$answer" in
            y | Y | yes) ;;
            *) die "no Rust toolchain: install one as https://rustup.rs says (version $(rust_version) or newer), then run this again" ;;
        esac
        have curl || { have apt-get && apt_install curl ca-certificates; }
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    need_compiler
}

# aws-lc and mimalloc are C: they need a compiler (and no cmake on the platforms we name).
need_compiler() {
    if ! have cc; then
        if have apt-get; then
            apt_install gcc libc6-dev
        else
            die "no C compiler: install gcc or clang (on macOS: xcode-select --install)"
        fi
    fi
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# Makes .cache/venv with the Python packages of tests/drivers/requirements.txt.
need_python() {
    local wanted="$ROOT/tests/drivers/requirements.txt" stamp="$CACHE/venv/requirements.txt"
    if [ -x "$CACHE/venv/bin/python" ] && cmp -s "$wanted" "$stamp"; then
        return 0
    fi
    have python3 || { have apt-get && apt_install python3; } || die "no python3"
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        have apt-get || die "this python3 has no venv module"
        apt_install python3-venv
    fi
    say "making .cache/venv"
    rm -rf "$CACHE/venv"
    python3 -m venv "$CACHE/venv"
    "$CACHE/venv/bin/pip" install -q --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$stamp"
}
