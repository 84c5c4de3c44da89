#!/usr/bin/env bash
# The whole chain as jobs that wait for one another, without Dask between them: stages whose parts are independent as a job
# array with a finaliser, the others as one job each.
#     ./array.sh field.toml 20 [--partition=long ...]
# Prints the number of the last job. What is up to date costs a few seconds, so that the same command goes on after a failure.
set -euo pipefail
field=${1:?the TOML file or the run folder}
shares=${2:?how many jobs an array has}
shift 2
workers=${WORKERS:-1} # processors of the stages that run as one job
after=
submit() {
    after=$(sbatch --parsable ${after:+--dependency=afterok:"$after"} --kill-on-invalid-dep=yes --signal=B:TERM@60 "${site[@]}" "$@")
}
site=("$@")
job() { # NAME COMMAND: the shell hands a signal on by becoming the command
    printf '#!/usr/bin/env bash\nexport OMP_NUM_THREADS=1\nexec %s\n' "$2" > "$script"
    submit --job-name="dpm-$1" --output="${LOGS:-.}/dpm-$1-%A_%a.log" "${@:3}" "$script"
}
script=$(mktemp)
trap 'rm -f "$script"' EXIT

stages=${STAGES:-ingest psf perturbation brightness first_pass distortion frame colour second_pass motions artificial_stars selection report}
for stage in $stages; do
    case $stage in
        ingest | first_pass | artificial_stars)
            job "$stage" "dpm stage $stage '$field' --partition \$SLURM_ARRAY_TASK_ID --of $shares --cluster none" \
                --array=0-$((shares - 1)) --ntasks=1 --mem=2G
            job "$stage-end" "dpm stage $stage '$field' --finalise --cluster none" --ntasks=1 --mem=2G
            ;;
        report) job report "dpm report '$field'" --ntasks=1 --mem=4G ;;
        *)
            job "$stage" "dpm stage $stage '$field' --workers $workers" --ntasks=1 --cpus-per-task="$workers" --mem=$((2 * workers + 2))G
            ;;
    esac
done
echo "$after"
