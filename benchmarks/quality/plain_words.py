"""Topics in a layman's words: written from the titles of MedQuAD's texts and of manuals alone.

The texts were not looked at, so that a question shares with its text what it happens to share.
"""

from __future__ import annotations

_TABLE = """
Lesch-Nyhan Syndrome
    Which illness makes little boys bite and hurt themselves?
Caffeine
    What does the stuff in my morning cup that keeps me awake do to me?
Imerslund-Grasbeck syndrome
    Why can some children not take in a vitamin from meat and grow pale?
Club Drugs
    Which pills do youngsters swallow at raves and discos?
Parasites - Baylisascaris infection
    Can one catch worms from raccoon droppings?
Statins
    Which pills bring the fat in my veins down?
factor XIII deficiency
    Why do wounds of some newborns never stop oozing?
Anesthesia
    How is someone put to sleep before the surgeon cuts?
Smokeless Tobacco
    Is chewing or snuffing it safer than cigarettes?
Ehlers-Danlos syndrome, periodontitis type
    Which inherited trouble brings loose joints and falling teeth?
Whipple's Disease
    Which rare germ of the gut keeps food from being absorbed?
Dementia
    Why does grandmother forget everything and no longer know us?
bradyopsia
    Whose eyes are slow to get used to bright light?
Takayasu arteritis
    Why can the doctor feel no beat at a young woman's wrist?
Gas in the Digestive Tract
    How do I stop belching, bloating and farting?
Norrie disease
    Which baby boys are born blind and later grow deaf?
Salivary Gland Cancer
    What is a lump in the glands that wet the mouth?
Subcortical band heterotopia
    What is a doubled layer of grey matter in the head?
progressive familial heart block
    Why does the pulse slow down more and more in some families?
Bart-Pumphrey syndrome
    Who has white nails, thick knuckles and cannot hear?
Eye Injuries
    What should I do when something flew into my eye and hurt it?
School Health
    How do classrooms keep pupils fit and well?
Home Care Services
    Who can nurse my old father where he lives?
Intrahepatic cholestasis of pregnancy
    Why do expectant mothers itch all over in the last months?
Urethral Disorders
    What can go wrong with the tube that pee leaves through?
Bile Duct Cancer
    Which tumour blocks the pipe from the liver?
Spina bifida occulta
    What is a hidden gap in the backbone from birth?
Piriformis Syndrome
    Which muscle of the buttock squeezes the nerve down the leg?
Environmental Health
    How do dirty air and water make us ill?
Moyamoya Disease
    Which narrowing of brain arteries looks like a puff of smoke?
homocystinuria
    Which inborn trouble with an amino acid shifts the lens and clots the veins?
Squamous cell carcinoma
    Which tumour grows from sunburnt skin?
Hemochromatosis
    What happens if the body hoards too much iron?
Transient Ischemic Attack
    What is a stroke that is over within minutes?
Parasites - Babesiosis
    Which tick bite gives a malaria of the red cells?
bladder cancer
    Why is there blood when I pee, and could it be a tumour?
Corneal Disorders
    What clouds the clear window at the front of the eye?
Cancer in Children
    Which tumours do kids get?
Psoriasis
    Why do I have red itchy plaques with silvery flakes on my elbows?
Prader-Willi Syndrome
    Why is my child always hungry and gets so fat?
Wernicke-Korsakoff Syndrome
    How do drunkards lose their memory for want of a vitamin?
Scurvy
    What did seamen suffer who had no fruit?
Duodenal atresia
    Which newborn vomits green because its gut is closed?
Breast Reconstruction
    How is a bosom rebuilt after surgery?
Alzheimer's Disease
    Which decay of the mind is the most common in old age?
Stillbirth
    Why are some babies dead when they are delivered?
Familial atrial fibrillation
    Which flutter of the heartbeat runs in the family?
Proteus syndrome
    Why do parts of some people overgrow, as with the Elephant Man?
Angelman syndrome
    Which children laugh all the time and hardly speak?
Progressive bulbar palsy
    Who slowly loses the power to swallow and talk?
autosomal recessive congenital methemoglobinemia
    Why do some people have blue skin from birth?
porphyria
    Whose urine turns purple and who must shun the sun?
Mantle cell lymphoma
    Which fast tumour of the lymph nodes strikes older men?
Rabies
    What happens if a mad dog or a bat bites me?
Parkinson disease
    Why do my hands shake and my steps become small and stiff?
Antibiotics
    Which medicines kill germs and do nothing for a cold?
Prosthetic joint infection
    What if my new hip gets germs in it?
Underage Drinking
    Why should teenagers not touch beer?
Bronchiectasis
    Why are my airways widened and full of slime?
short QT syndrome
    Which electric fault lets young people drop dead?
Benign Essential Blepharospasm
    Why do my eyelids twitch and shut by themselves?
Parasites - Trichuriasis (also known as Whipworm Infection)
    Which worms live in the bowel of people in the tropics?
Fournier gangrene
    Which rot of the private parts kills within days?
Carcinoid Tumors
    Which slow growths of the gut make hormones?
polycystic kidney disease
    Why are organs that make urine full of bubbles?
Gluten Sensitivity
    Why can I not stand bread and noodles?
Spleen Diseases
    What is wrong with the organ under my left ribs?
Amyotrophic Lateral Sclerosis
    Which creeping paralysis did the baseball star Gehrig have?
Giant Cell Arteritis
    Why does the temple of an elderly woman ache so that she may go blind?
Heart Transplantation
    When does a patient get the pump of a dead donor?
Breast Cancer
    What if I feel a lump in my bosom?
Parasites - Scabies
    Which mites dig under the skin and itch at night?
Corns and Calluses
    How do I get rid of hard skin on my feet?
Drugs and Young People
    Why do teenagers get hooked on substances?
Legg-Calv-Perthes disease
    Why does a boy limp because the bone at the hip dies off?
Severe combined immunodeficiency
    Which babies must live in a bubble, since they have no defence?
Meningitis and Encephalitis
    What is a swelling around the brain with fever and a stiff neck?
Ollier disease
    Which lumps of gristle deform the bones of kids?
Paroxysmal Choreoathetosis
    Who has sudden fits of dancing, writhing limbs?
Coenzyme Q10 deficiency
    What if the cells' power plants lack a helper?
Hispanic American Health
    How fit are Latinos in the States?
Langerhans cell histiocytosis
    Which defenders of the skin pile up and eat holes into bones?
v9fs: Plan 9 Resource Sharing for Linux
    How do I mount the disks of Bell Labs' later system?
Acorn Disc Filing System - ADFS
    How do I read floppies of an old British RISC computer?
Overview of Amiga Filesystems
    Can I read volumes of Commodore's home computer?
autofs - how it works
    How are volumes attached by themselves when someone goes there?
General Filesystem Caching
    How are remote files kept locally so that they open faster?
Directory Locking
    In which order are folders guarded so that renames cannot hang?
eCryptfs: A stacked cryptographic filesystem for Linux
    How do I scramble my folders with a secret passphrase?
Cramfs - cram a filesystem onto a small ROM
    How do I squeeze files into a tiny chip that cannot be changed?
Linux Ethernet Bonding Driver HOWTO
    How do I join two network cards into one faster link?
SocketCAN - Controller Area Network
    How do programs talk to the bus in a car?
Checksum Offloads
    How does the card check that packets are intact in place of the processor?
cdc_mbim - Driver for CDC MBIM Mobile Broadband modems
    How does a cellular dongle get on the internet?
WHAT IS Flash-Friendly File System (F2FS)?
    Which storage layout suits SSDs and memory cards?
Tense As Discourse Anaphor
    How does the time of verbs refer back to what was told before?
Semantic Role Labeling Via Integer Linear Programming Inference
    Who found out with optimisation who did what to whom in a sentence?
The pigeonhole principle
    Why must two letters share a box if there are too few boxes?
The law of excluded middle
    Is every claim either so or not so?
Command-line tool to validate and pretty-print JSON
    What indents braces and brackets in a terminal?
A fast, lightweight IPv4/IPv6 manipulation library in Python.
    Which module computes with internet addresses?
Safely evaluate Python string literals without using eval().
    How is quoted text decoded without running it?
"""
_LINES = _TABLE.strip().splitlines()
PLAIN_WORDS = {
    title: asked.strip() for title, asked in zip(_LINES[::2], _LINES[1::2], strict=True)
}  # title -> question
