"""Forty instructions with reference replies, written for this project: `eval chat`'s default."""

from __future__ import annotations

PROMPTS: tuple[tuple[str, str], ...] = (
    ("What is the capital of Australia?", "The capital of Australia is Canberra."),
    (
        "Explain in one sentence why the sky is blue.",
        "The sky is blue because air molecules scatter the short blue waves of sunlight much more "
        "than the long red ones.",
    ),
    (
        "Write a polite reply that declines an invitation to dinner on Friday.",
        "Thank you very much for the invitation. I am sorry, but I already have plans on Friday "
        "and cannot come. I hope we can find another evening soon.",
    ),
    ("Translate into French: Good morning, how are you?", "Bonjour, comment allez-vous ?"),
    ("What is 17 times 6?", "17 times 6 is 102."),
    (
        "List three uses of baking soda in the house.",
        "1. Cleaning sinks and pans\n2. Taking smells out of the refrigerator\n3. Helping cakes "
        "and bread to rise",
    ),
    (
        "Summarise in one sentence: The meeting began late because the train was delayed. "
        "Nevertheless all points on the agenda were settled, and the next meeting is in May.",
        "Despite a late start caused by a delayed train, the meeting settled its whole agenda, "
        "and the next one is in May.",
    ),
    (
        "Give me a synonym for each of these words: happy, quick, begin.",
        "happy: glad\nquick: fast\nbegin: start",
    ),
    (
        "Write a Python function that returns the largest number in a list.",
        "def largest(numbers):\n    best = numbers[0]\n    for number in numbers[1:]:\n"
        "        if number > best:\n            best = number\n    return best",
    ),
    (
        "Is a tomato a fruit or a vegetable?",
        "Botanically a tomato is a fruit, because it grows from a flower and holds seeds. In "
        "cooking it is usually treated as a vegetable.",
    ),
    (
        "Correct the grammar: She don't like going to the gym no more.",
        "She doesn't like going to the gym anymore.",
    ),
    (
        "Describe what a lighthouse is for.",
        "A lighthouse sends out a strong light so that ships can see where the coast and dangerous "
        "rocks are, and can steer safely at night or in bad weather.",
    ),
    (
        "Turn this into a question: The shop opens at nine o'clock.",
        "At what time does the shop open?",
    ),
    (
        "Name the planets of the solar system in order from the Sun.",
        "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune.",
    ),
    (
        "Write a haiku about autumn.",
        "Red leaves leave the branch\nThe path is quiet and wet\nEvening comes early",
    ),
    (
        "How do I boil an egg so that the yolk stays soft?",
        "Bring a pot of water to the boil, lower the egg in gently, and cook it for about six "
        "minutes. Then put it into cold water to stop the cooking.",
    ),
    (
        "What is the difference between weather and climate?",
        "Weather is what the air is doing at one place now or in the next days. Climate is the "
        "average of the weather over many years.",
    ),
    (
        "Extract the names from this sentence: Yesterday Clara met Mr Jones and his son Peter.",
        "Clara, Mr Jones, Peter",
    ),
    (
        "Sort these numbers from small to large: 42, 7, 19, 3, 88.",
        "3, 7, 19, 42, 88",
    ),
    (
        'Write one sentence that uses the word "although".',
        "Although it was raining, the children went outside to play.",
    ),
    (
        'Is the following review positive or negative? "The food was cold and we waited an hour."',
        "The review is negative.",
    ),
    (
        "Why do we have leap years?",
        "The Earth takes about 365 and a quarter days to go around the Sun, so every four years a "
        "day is added to keep the calendar in step with the seasons.",
    ),
    (
        "Give two arguments for and one against working from home.",
        "For: it saves the time of commuting, and it allows people to arrange their day more "
        "freely. Against: it can be lonely and makes it harder to talk to colleagues.",
    ),
    (
        "Rewrite more formally: Hey, can you send me that file asap?",
        "Could you please send me the file at your earliest convenience?",
    ),
    ('What is the opposite of "ancient"?', 'The opposite of "ancient" is "modern".'),
    (
        "Explain to a child what a bank does.",
        "A bank keeps people's money safe. It also lends money to people who need it, for example "
        "to buy a house, and they pay it back a little at a time.",
    ),
    (
        "Write a short product description for a wooden desk lamp.",
        "This desk lamp is made of solid oak and gives a warm, even light. Its arm turns in every "
        "direction, so that you always see clearly what you are working on.",
    ),
    (
        "How many minutes are there in three and a half hours?",
        "There are 210 minutes in three and a half hours.",
    ),
    (
        "Give me a title for a story about a girl who finds an old map.",
        "The Map in the Attic",
    ),
    (
        "What should I do if I spill coffee on my keyboard?",
        "Unplug the keyboard at once, turn it upside down to let the liquid run out, wipe it with "
        "a dry cloth, and let it dry for at least a day before you use it again.",
    ),
    (
        "Convert to a list: We need milk, two loaves of bread and some butter.",
        "- milk\n- two loaves of bread\n- some butter",
    ),
    (
        "Who wrote the play Romeo and Juliet?",
        "Romeo and Juliet was written by William Shakespeare.",
    ),
    (
        "Complete the sentence: The early bird catches",
        "The early bird catches the worm.",
    ),
    (
        'Explain what the word "photosynthesis" means.',
        "Photosynthesis is how plants use sunlight to turn water and carbon dioxide into sugar and "
        "oxygen.",
    ),
    (
        "Write a thank-you note to a teacher.",
        "Dear teacher, thank you for your patience and for everything that you taught me this "
        "year. I enjoyed your lessons very much. With best wishes",
    ),
    (
        "A train leaves at 14:20 and arrives at 16:05. How long does the journey take?",
        "The journey takes 1 hour and 45 minutes.",
    ),
    (
        "Name one animal that lays eggs and one that does not.",
        "A chicken lays eggs. A dog does not.",
    ),
    (
        "Put this sentence into the past tense: I walk to school and meet my friend.",
        "I walked to school and met my friend.",
    ),
    (
        "Give three tips for sleeping better.",
        "1. Go to bed at the same time every day.\n2. Do not look at screens during the last hour "
        "before bed.\n3. Keep the bedroom dark, quiet and cool.",
    ),
    (
        "Answer with yes or no only: Is ice less dense than liquid water?",
        "Yes",
    ),
)
