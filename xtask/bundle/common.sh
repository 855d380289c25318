# shellcheck shell=sh
# What the scripts of the bundles share. Not a program: `run.sh` sources it when it has set `here`, the folder of both, and sets
# `backend` (as the programs call it) and `label` (as the results call it) before it runs anything.

out=${OUT:-.}
quick=${BUNDLE_QUICK:-}
only=${BUNDLE_ONLY:-}
commit=$(cat "$here/commit")
date=$(date -u +%Y-%m-%d)
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
failed=0
broken=
# When everything is to have ended, in seconds since 1970; empty: whenever it does.
end=

case $only in
'' | right) ;;
*)
    echo "run.sh: BUNDLE_ONLY=$only is not known; \`right\` is what there is" >&2
    exit 2
    ;;
esac

# A line, or a file, for whoever watches and for the results.
say() { printf '%s\n' "$*" | tee -a "$results"; }
# With an end to its last line, whoever was cut off in it.
show() { awk 1 "$1" | tee -a "$results"; }
fenced() {
    say '```text'
    show "$1"
    say '```'
}
section() {
    say
    say "## $*"
    say
}
fail() {
    failed=$((failed + 1))
    say "**FAILED: $***"
}

# limited SECONDS COMMAND...: runs it for so long at most, and not past the end, where the machine can end it. Status 124: it was
# not done by then.
limited() {
    seconds=$1
    shift
    if [ -n "$end" ]; then
        left=$((end - $(date +%s)))
        [ "$left" -gt 0 ] || return 124
        [ "$left" -ge "$seconds" ] || seconds=$left
    fi
    if command -v timeout >/dev/null 2>&1; then timeout "$seconds" "$@"; else "$@"; fi
}

# ended STATUS: what came of a program that failed.
ended() {
    if [ "$1" -eq 124 ]; then echo "was not done in its time"; else echo "ended with status $1"; fi
}

# ---- Which device

# devices NAME: the backend's devices by `swap-tensor info`, a line each: name and driver.
devices() {
    awk -v name="$1" '/^backend /{ours = $2 == name}
        ours && /^  device [0-9]+ /{sub(/^  device [0-9]+ */, ""); sub(/, memory .*/, ""); print}' "$work/info"
}

# why_not NAME: why the backend has none.
why_not() {
    why=$(sed -n "s/^backend $1  *//p" "$work/info")
    echo "${why:-none is listed}"
}

# begin NAME TITLE: begins the results, in NAME.md and with that title.
begin() {
    name=$1
    results=$out/$name.md
    if ! mkdir -p "$out" || ! : >"$results"; then exit 2; fi
    say "# $2"
    say
}

# facts: what is measured, and where.
facts() {
    say "- commit: $commit"
    say "- date: $date"
    say "- host: $(uname -srm), $(getconf _NPROCESSORS_ONLN 2>/dev/null) processors"
    say "- $(grep '^host memory' "$work/info" | tr -s ' ')"
    if [ -n "$quick" ]; then
        say "- quick: sizes were divided, and no figure means anything"
    fi
}

nvidia() {
    if command -v nvidia-smi >/dev/null 2>&1; then
        say "- nvidia-smi: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>&1 | head -n 4 | tr '\n' ';')"
    fi
}

# A program says which backend it was told to use; the results say what that was here.
relabel() {
    sed -e "s/^told on $backend\$/told on $label/" -e "s/^backend $backend\$/backend $label/" \
        -e "s/^device      $backend,/device      $label,/"
}

# ---- What must be right: suites

# Suites of a program's tests `<backend>::<suite>::<promise>`, called after both if `whole`; of others all as one, called after
# the program. A test that says it cannot be tried, or a promise of it, counts as such, although the test passed.
cat >"$work/count.awk" <<'END'
function count(test, verdict) {
    said[test] = verdict
    if (verdict == "ok") passed[of[test]]++
    else if (verdict ~ /^ignored/) untried[of[test]]++
    else failed[of[test]]++
}
/^test .* \.\.\. / {
    if (open != "") count(open, "FAILED")
    open = ""
    test = $2
    parts = split(test, part, "::")
    suite = parts < 3 ? program : whole ? part[1] "::" part[2] : part[2]
    if (!(suite in known)) { known[suite] = 1; order[++suites] = suite }
    of[test] = suite
    verdict = substr($0, index($0, " ... ") + 5)
    # A driver may have written something before the verdict, with the end of a line or without.
    if (verdict ~ /^(FAILED$|ignored)/) count(test, verdict)
    else if (verdict ~ /ok$/) count(test, "ok")
    else open = test
    next
}
open != "" && /^(ok|FAILED)$/ { count(open, $0); open = "" }
/^---- .* stdout ----$/ { shown = $2 }
/^skipped( [a-z_0-9]+)?: / && said[shown] == "ok" {
    said[shown] = "skipped"
    passed[of[shown]]--
    untried[of[shown]]++
}
END {
    if (open != "") count(open, "FAILED")
    for (i = 1; i <= suites; i++) {
        suite = order[i]
        printf "| %s | %d | %d | %d |\n", suite, passed[suite], failed[suite], untried[suite]
    }
}
END

# conformance WHOLE: begins their table.
conformance() {
    whole=$1
    section Conformance
    say "| suite | $label: passed | failed | cannot be tried here |"
    say "|---|---|---|---|"
}

# suite SECONDS PROGRAM [ARGUMENT...]: adds its rows, and keeps in mind if something failed.
suite() {
    limit=$1 program=$2
    shift 2
    limited "$limit" "$here/$program" --test-threads=1 --show-output "$@" >"$work/$program" 2>&1
    status=$?
    awk -v program="$program" -v whole="$whole" -f "$work/count.awk" "$work/$program" >"$work/rows"
    show "$work/rows"
    if [ $status -ne 0 ]; then
        ended $status >"$work/$program.why"
    elif [ ! -s "$work/rows" ]; then
        echo "ran no test" >"$work/$program.why"
    elif grep -q '^skipped: no wgpu adapter' "$work/$program"; then
        # Tests for wgpu pass where there is no adapter. Here there is one, so it went missing on the way.
        echo "lost its adapter" >"$work/$program.why"
    else
        return
    fi
    broken="$broken $program"
}

# conformed: says what failed, below the table.
conformed() {
    for program in $broken; do
        cp "$work/$program" "$out/$name-$program.log"
        say
        fail "$program $(cat "$work/$program.why"). From $name-$program.log:"
        {
            grep -A 3 -e 'panicked at' -e '^skipped: no wgpu adapter' "$work/$program" | head -n 40
            echo ...
            tail -n 20 "$work/$program"
        } >"$work/extract"
        fenced "$work/extract"
    done
}

# ---- What must be right: programs

# right SECONDS PROGRAM [ARGUMENT...]: what it says, and whether it succeeded. `layer`, if set, goes over its instances.
right() {
    limit=$1 program=$2
    shift 2
    limited "$limit" env ${layer:+VK_INSTANCE_LAYERS="$layer"} "$here/$program" "$@" >"$work/raw" 2>&1
    status=$?
    relabel <"$work/raw" >"$work/said"
    fenced "$work/said"
    [ $status -eq 0 ] || fail "$program $(ended $status)"
    if grep -q -e Validation -e VUID "$work/raw"; then fail "the validation layer had something to say"; fi
}

# room: how large a model, and how large its arena, in bytes; less where the machine has less.
room() {
    if [ -n "$quick" ]; then
        model=8388608 arena=3145728
    else
        model=4000000000 arena=1073741824
    fi
    # On disk once; in host memory as the tier for what changed, and as the file's pages.
    disk=$(df -Pk "$work" | awk 'NR == 2 {print $4}')
    disk=${disk:-0}
    memory=$("$here/swap-tensor" info --json | sed -n 's/.*"available_bytes":\([0-9][0-9]*\).*/\1/p')
    memory=${memory:-0}
    wanted=$model
    while [ $model -gt 16777216 ]; do
        short=
        [ $((model / 1024 + 65536)) -le "$disk" ] || short="$((disk / 1024)) MiB are free on disk"
        [ $((model * 2)) -le "$memory" ] || short="${short:+$short, }$((memory / 1048576)) MiB of host memory"
        [ -n "$short" ] || break
        model=$((model / 2)) arena=$((arena / 2)) why=$short
    done
    if [ $model -ne $wanted ]; then
        say "**SCALED DOWN: a model of $wanted bytes is too large here ($why); this one, and its arena, are smaller.**"
        say
    fi
}

# job SECONDS: streams the model through the arena and checks every byte. The model stays for the next.
job() {
    say "\`swap-tensor run --backend $label --model-size $model --device-memory $arena\`"
    say
    XDG_CACHE_HOME=$work
    export XDG_CACHE_HOME
    limited "$1" "$here/swap-tensor" run --backend "$backend" --model-size $model --device-memory $arena \
        >"$work/raw" 2>&1
    status=$?
    relabel <"$work/raw" | sed "s|$work/swap-tensor/||" >"$work/said"
    fenced "$work/said"
    if [ $status -ne 0 ]; then
        fail "the main job $(ended $status)"
    elif ! grep -q '^mismatches  0$' "$work/said"; then
        fail "bytes were wrong"
    fi
}

# ---- What should be fast

# rates SECONDS PROGRAM [ARGUMENT...]: its figures. To be slow is no failure.
rates() {
    limit=$1 program=$2
    shift 2
    limited "$limit" "$here/$program" "$@" >"$work/raw" 2>&1
    status=$?
    relabel <"$work/raw" >"$work/said"
    fenced "$work/said"
    case $status in
    0) ;;
    124) say "It $(ended $status), which is no failure." ;;
    *) fail "$program $(ended $status)" ;;
    esac
}

# finish: sums up and exits.
finish() {
    say
    if [ $failed -eq 0 ]; then
        say "Everything that must be right on $label was."
        exit 0
    fi
    say "**$failed of the steps that must be right on $label FAILED.**"
    exit 1
}
